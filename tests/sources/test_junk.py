"""Values of every wrong kind under every key: each file is read, or refused in a screen. No traceback, no hang."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crossbreed.errors import InputError
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.sources import open_sources

JUNK: list[Any] = [None, True, -1, 1.5, float("nan"), 10**39, "", "x" * 3000, [], [None], {}, {"x": []}]
OF_ADAPTERS = (
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out", "bias"),
    *("modules_to_save", "init_lora_weights", "base_model_name_or_path", "ensure_weight_tying", "target_modules"),
)
OF_MODELS = (
    *("model_type", "architectures", "text_config", "rope_parameters", "rope_scaling", "tie_word_embeddings"),
    *("return_dict", "attn_implementation", "configuration_files"),
    *("vocab_size", "hidden_size", "num_attention_heads", "layer_types", "eos_token_id", "quantization_config"),
)
OF_TOKENIZERS = ("eos_token", "pad_token", "tokenizer_class", "chat_template", "added_tokens_decoder", "auto_map")


@pytest.fixture(scope="module")
def folders(
    toy_base: Path,
    toy_experts: dict[str, Path],
    toy_adapters: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("junk")
    originals = {"base": toy_base, "expert": toy_experts["everything"], "adapter": toy_adapters["plain"]}
    copies = {name: Path(shutil.copytree(path, root / name)) for name, path in originals.items()}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(toy_base / name, copies["adapter"] / name)
    return copies


def spoilt(file: Path, key: str) -> Iterator[None]:
    """Puts one value of a wrong kind after the other under a key; leaves the file as it was."""
    whole = file.read_text()
    for junk in JUNK:
        file.write_text(json.dumps({**json.loads(whole), key: junk}))
        yield
    file.write_text(whole)


def is_read_or_refused(open_: Callable[[], object]) -> bool:
    found = ""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            open_()
    except InputError as error:
        found = str(error)
    assert len(found) < 2500
    return not found


def look(base: Path, expert: Path) -> None:
    sources = open_sources(str(base), {"x": str(expert)})
    sources.require_one_chat_template()
    assert sources.end_token_ids
    assert sources.notes is not None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("key", OF_ADAPTERS)
def test_options_of_adapters(key: str, folders: dict[str, Path]) -> None:
    read = [
        is_read_or_refused(lambda: look(folders["base"], folders["adapter"]))
        for _ in spoilt(folders["adapter"] / "adapter_config.json", key)
    ]
    assert len(read) == len(JUNK)
    look(folders["base"], folders["adapter"])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("key", OF_MODELS)
def test_configurations_of_experts(key: str, folders: dict[str, Path]) -> None:
    read = [
        is_read_or_refused(lambda: look(folders["base"], folders["expert"]))
        for _ in spoilt(folders["expert"] / "config.json", key)
    ]
    assert len(read) == len(JUNK)
    look(folders["base"], folders["expert"])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("key", OF_MODELS)
def test_configurations_of_bases(key: str, folders: dict[str, Path]) -> None:
    def open_() -> None:
        assert open_sources(str(folders["base"]), {}).notes is not None
        Encoder(folders["base"])

    read = [is_read_or_refused(open_) for _ in spoilt(folders["base"] / "config.json", key)]
    assert len(read) == len(JUNK)
    open_()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("source", ["expert", "adapter"])
@pytest.mark.parametrize("key", OF_TOKENIZERS)
def test_tokenizers_of_experts(key: str, source: str, folders: dict[str, Path]) -> None:
    read = [
        is_read_or_refused(lambda: look(folders["base"], folders[source]))
        for _ in spoilt(folders[source] / "tokenizer_config.json", key)
    ]
    assert any(read)
