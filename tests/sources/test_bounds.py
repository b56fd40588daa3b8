"""Strangers' tokenizers do not take all memory."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from copies import Copy

from crossbreed.errors import InputError
from crossbreed.sources.tokenization import load_tokenizer


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["model"]["vocab"].update(x=4_000_000_000),
        lambda value: value["added_tokens"].append({**value["added_tokens"][0], "content": "<x>", "id": 4_000_000_000}),
        lambda value: value.update(
            normalizer={
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": " "}, "content": " " * 100}] * 6,
            }
        ),
    ],
)
def test_a_tokenizer_that_takes_all_memory_is_refused(
    change: Callable[[dict[str, object]], object], toy_base: Path, copy: Callable[[Path], Copy]
) -> None:
    folder = copy(toy_base).path
    value = json.loads((folder / "tokenizer.json").read_text())
    change(value)
    (folder / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="more memory than any model needs"):
        load_tokenizer(folder)
