from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from crossbreed.errors import EngineError, InputError, MissingExtra
from crossbreed.fitness import AnyEngineConfig, EngineConfig, TransformersConfig, VllmConfig, build_engine
from crossbreed.fitness.engines.vllm import check_options


def parse(**settings: Any) -> EngineConfig:
    adapter: TypeAdapter[EngineConfig] = TypeAdapter(AnyEngineConfig)
    return adapter.validate_python(settings)


def test_the_kind_decides_which_settings_there_are() -> None:
    assert parse(kind="vllm", options={"enforce_eager": True}).kind == "vllm"
    with pytest.raises(ValidationError, match="options"):
        parse(kind="transformers", options={})
    with pytest.raises(ValidationError, match=r"llama\.cpp"):
        parse(kind="llama.cpp")


@pytest.mark.parametrize("name", ["model", "worker_extension_cls", "dtype"])
def test_options_that_have_a_field_of_their_own_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"`{name}` is set by crossbreed"):
        parse(kind="vllm", options={name: "x"})


def test_an_option_that_vllm_does_not_know_gets_a_suggestion() -> None:
    known = {"enforce_eager", "block_size"}
    check_options({"block_size": 32}, known)
    with pytest.raises(InputError) as caught:
        check_options({"enforce_eagr": True}, known)
    assert caught.value.fix == "write `enforce_eager`"


def test_an_engine_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'crossbreed\[c"):
        build_engine(VllmConfig(kind="vllm"), tmp_path)


def test_what_a_library_raises_at_the_start_is_an_engine_error_of_one_line(toy_base: Path) -> None:
    with pytest.raises(EngineError, match=r"the transformers engine did not start on .*nowhere") as caught:
        build_engine(TransformersConfig(kind="transformers", device="nowhere"), toy_base)
    assert "\n" not in str(caught.value)
