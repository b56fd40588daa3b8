"""What a library raises is an EngineError; what our own code raises, or a stream, comes out as it is."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file

from crossbreed.errors import CrossbreedError, EngineError, InputError, InvalidWeights, is_out_of_memory
from crossbreed.fitness import FakeConfig, Generate, Loglikelihood, Prompt, TransformersConfig, VllmConfig, build_engine
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.fitness.engines.library import BUGS, engine_code, library_call
from crossbreed.fitness.engines.transformers import TransformersEngine
from crossbreed.fitness.engines.vllm import VllmEngine
from crossbreed.types import Recipe

RECIPE = Recipe(base="base", sources={"base": "hash"}, rules=())
REQUEST = Loglikelihood(prompt=Prompt(text="two and two"), continuation=" is four")
TEXT = Generate(prompt=Prompt(text="two and two"), max_tokens=2)
NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
]
OTHERS = [RuntimeError("CUDA error: an illegal access"), ValueError("of the library"), OSError("no file")]


def named(error: Exception) -> str:
    return type(error).__name__


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


class Settings(BaseModel):
    sizes: list[int]


@pytest.mark.parametrize("boundary", [library_call, engine_code])
def test_settings_that_a_library_refuses_are_named(boundary: Callable[..., Any]) -> None:
    """pydantic's first line only counts them."""
    with (
        pytest.raises(EngineError, match=r"^it did not start: Input should be a valid list$"),
        boundary("it did not start"),
    ):
        Settings.model_validate({"sizes": 3})


@pytest.mark.parametrize("error", [*NO_MEMORY, *OTHERS], ids=named)
@pytest.mark.parametrize("boundary", [library_call, engine_code])
def test_what_a_library_raises_is_an_engine_error(boundary: Callable[..., Any], error: Exception) -> None:
    with pytest.raises(EngineError, match="it did not work: ") as caught, boundary("it did not work"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [InvalidWeights("NaN"), InputError("wrong"), EngineError("no")], ids=named)
@pytest.mark.parametrize("boundary", [library_call, engine_code])
def test_what_is_ours_already_passes(boundary: Callable[..., Any], error: CrossbreedError) -> None:
    with pytest.raises(type(error)) as caught, boundary("it did not work"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_passes_through_code_of_ours_and_not_through_a_call(bug: type[Exception]) -> None:
    with pytest.raises(bug, match="of ours"), engine_code("it did not work"):
        raise bug("of ours")
    with pytest.raises(EngineError), library_call("it did not work"):
        raise bug("of the library")


def test_out_of_memory_has_many_faces() -> None:
    assert all(map(is_out_of_memory, NO_MEMORY))
    assert not any(map(is_out_of_memory, OTHERS))


@pytest.fixture
def weights(toy_base: Path) -> dict[str, torch.Tensor]:
    return dict(sorted(load_file(toy_base / "model.safetensors").items()))


@pytest.fixture
def engine(toy_base: Path) -> Iterator[TransformersEngine]:
    built = build_engine(TransformersConfig(kind="transformers"), toy_base)
    assert isinstance(built, TransformersEngine)
    yield built
    built.close()


@pytest.mark.parametrize("error", NO_MEMORY, ids=named)
def test_transformers_out_of_memory_is_an_engine_error(
    engine: TransformersEngine, weights: dict[str, torch.Tensor], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = engine.adopt(RECIPE, iter(weights.items()))
    right = handle.answer([REQUEST, TEXT])
    projection = "model.layers.0.self_attn.q_proj.weight"
    with monkeypatch.context() as patch:
        patch.setattr(type(engine._model), "forward", raising(error))
        for request in (REQUEST, TEXT):
            with pytest.raises(EngineError, match="did not answer"):
                handle.answer([request])
        with pytest.raises(EngineError, match=r"not compute the gradient; fewer `fitness\.slopes\.tokens`"):
            engine.gradient([REQUEST], [1.0], tokens=64)
        with pytest.raises(EngineError, match="did not run the model"):
            engine.activations([REQUEST], [projection], lambda name, inputs: None)
    assert handle.answer([REQUEST, TEXT]) == right
    with pytest.raises(TypeError, match="of the observer"):
        engine.activations([REQUEST], [projection], raising(TypeError("of the observer")))


@pytest.mark.parametrize("error", [TypeError("ours"), RuntimeError("ours"), InvalidWeights("NaN")], ids=named)
def test_what_a_stream_raises_passes_through_transformers(
    engine: TransformersEngine, weights: dict[str, torch.Tensor], error: Exception
) -> None:
    def torn() -> Iterator[tuple[str, torch.Tensor]]:
        yield next(iter(weights.items()))
        raise error

    with pytest.raises(type(error)) as caught:
        engine.adopt(RECIPE, torn())
    assert caught.value is error


def test_a_chat_template_that_refuses_is_the_user_s_to_change(toy_base: Path, tmp_path: Path) -> None:
    for file in toy_base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no system message, please') }}")
    prompt = Prompt(text="two", chat=True, system="be brief")
    with pytest.raises(InputError, match="no system message, please"):
        Encoder(tmp_path).encode(Generate(prompt=prompt, max_tokens=1))


def test_a_host_that_cannot_be_read_and_a_bug_of_an_adapter_are_told_apart(
    toy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="cannot read the model's configuration"):
        build_engine(TransformersConfig(kind="transformers"), tmp_path)
    monkeypatch.setattr("crossbreed.testing.fakes.FakeEngine.__init__", raising(TypeError("of the adapter")))
    with pytest.raises(TypeError, match="of the adapter"):
        build_engine(FakeConfig(kind="fake"), toy_base)


@dataclass
class EngineArgs:
    """The options that the stand-in for vLLM knows."""

    enforce_eager: bool = False


class LLM:
    """In vLLM's place: takes weights, and answers nothing but errors."""

    fails_in = ""
    error: Exception = RuntimeError()

    def __init__(self, **settings: object) -> None:
        self._fail("start")

    def collective_rpc(self, method: str, kwargs: dict[str, Any] | None = None) -> None:
        for _ in (kwargs or {}).get("weights_iterator", ()):
            pass
        self._fail(method)

    def reset_prefix_cache(self) -> bool:
        return self.fails_in != "reset_prefix_cache"

    def generate(self, *_: object, **__: object) -> list[object]:
        self._fail("generate")
        return []

    def _fail(self, where: str) -> None:
        if self.fails_in == where:
            raise self.error


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    """vLLM's boundary is tested without vLLM; what it does is for test_vllm_engine.py."""

    class Own(LLM):
        pass

    module = ModuleType("vllm")
    module.__dict__.update(EngineArgs=EngineArgs, SamplingParams=dict, LLM=Own)
    module.__spec__ = sys.modules["typing"].__spec__  # so that it counts as installed
    monkeypatch.setitem(sys.modules, "vllm", module)
    return Own


@pytest.mark.parametrize("error", [*NO_MEMORY, *OTHERS, AssertionError("of vLLM"), KeyError("of vLLM")], ids=named)
def test_whatever_vllm_raises_is_an_engine_error(
    error: Exception, llm: type[LLM], toy_base: Path, weights: dict[str, torch.Tensor]
) -> None:
    llm.error = error
    llm.fails_in = "start"
    with pytest.raises(EngineError, match="vLLM did not start on"):
        VllmEngine(VllmConfig(kind="vllm"), toy_base)
    for fails_in, seen in (
        ("reload_weights", "did not take the weights"),
        ("reset_prefix_cache", "did not drop its prefix cache"),
        ("generate", "did not answer"),
    ):
        llm.fails_in = ""
        engine = VllmEngine(VllmConfig(kind="vllm"), toy_base)
        llm.fails_in = fails_in
        with pytest.raises(EngineError, match=seen):
            engine.adopt(RECIPE, iter(weights.items())).answer([TEXT])
        llm.fails_in = ""
        with pytest.raises(EngineError, match="not used again"):
            engine.adopt(RECIPE, iter(weights.items()))


def test_what_a_stream_raises_passes_through_vllm(
    llm: type[LLM], toy_base: Path, weights: dict[str, torch.Tensor]
) -> None:
    def torn() -> Iterator[tuple[str, torch.Tensor]]:
        yield next(iter(weights.items()))
        raise TypeError("of ours")

    engine = VllmEngine(VllmConfig(kind="vllm"), toy_base)
    with pytest.raises(TypeError, match="of ours"):
        engine.adopt(RECIPE, torn())
    engine.adopt(RECIPE, iter(weights.items()))
