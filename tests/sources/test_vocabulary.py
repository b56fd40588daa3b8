import json
from collections.abc import Callable
from pathlib import Path

import pytest
from copies import Copy

from crossbreed.sources.vocabulary import EndToken, end_tokens


def test_files_that_agree_name_one_end_token(toy_base: Path) -> None:
    files = ("config.json", "generation_config.json", "tokenizer_config.json")
    assert end_tokens(toy_base) == (EndToken(id=256, text="<eos>", named_by=files),)


def test_files_that_disagree_are_told_apart(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    model = copy(toy_base).json("generation_config.json", lambda config: config.update(eos_token_id=[256, 3, 3]))
    letter = next(
        t for t, i in json.loads((toy_base / "tokenizer.json").read_text())["model"]["vocab"].items() if i == 3
    )
    model.json("tokenizer_config.json", lambda config: config.update(eos_token={"content": "<unheard of>"}))
    assert end_tokens(model.path) == (
        EndToken(id=256, text="<eos>", named_by=("config.json", "generation_config.json")),
        EndToken(id=3, text=letter, named_by=("generation_config.json",)),
        EndToken(id=None, text="<unheard of>", named_by=("tokenizer_config.json",)),
    )


@pytest.mark.parametrize("place", [lambda config: config, lambda config: config.setdefault("text_config", {})])
def test_a_text_part_is_looked_into(
    place: Callable[[dict[str, object]], dict[str, object]], toy_base: Path, copy: Callable[[Path], Copy]
) -> None:
    model = copy(toy_base).json("config.json", lambda c: (c.pop("eos_token_id"), place(c).update(eos_token_id=3)))
    assert 3 in [token.id for token in end_tokens(model.path) if "config.json" in token.named_by]


def test_without_a_tokenizer_a_token_has_no_text(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    model = copy(toy_base)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (model.path / name).unlink()
    assert end_tokens(model.path) == (EndToken(id=256, text=None, named_by=("config.json",)),)
