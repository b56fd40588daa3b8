"""The canary against engines that are wrong in the same way at every swap, and where it must not raise an alarm."""

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crossbreed.errors import SwapError
from crossbreed.fitness import (
    FakeConfig,
    Generate,
    Handle,
    Loglikelihood,
    Prompt,
    Request,
    Response,
    TransformersConfig,
    check_swap,
)
from crossbreed.fitness.canary_probes import mean_gap
from crossbreed.fitness.canary_weights import other
from crossbreed.fitness.engines import reference
from crossbreed.fitness.engines.handle import CurrentHandle
from crossbreed.fitness.engines.transformers import TransformersEngine
from crossbreed.testing.fakes import FakeEngine
from crossbreed.testing.tiny_models import make_model
from crossbreed.testing.toys import load_weights, make_checkpoint
from crossbreed.types import Dtype, Recipe, WeightStream

BASE, EXPERT = (Recipe(base="base", sources={"base": name}, rules=()) for name in ("hash-base", "hash-expert"))
REQUESTS: list[Request] = [
    Generate(prompt=Prompt(text="34 + 12 ="), max_tokens=3),
    Loglikelihood(prompt=Prompt(text="The capital of France is"), continuation=" Paris"),
]
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("truth") / "base", num_layers=2)


class WrongEngine(TransformersEngine):
    """Changes each tensor as it comes."""

    wrongly: Callable[[str, torch.Tensor], torch.Tensor]

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        return super().adopt(recipe, ((name, self.wrongly(name, tensor)) for name, tensor in weights), kept=kept)


def noise(weights: Weights) -> Weights:
    generator = torch.Generator().manual_seed(1)
    return {
        name: (tensor + 0.01 * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        for name, tensor in weights.items()
    }


def canary(
    engine: TransformersEngine | FakeEngine, a: Weights, b: Weights, requests: list[Request] = REQUESTS
) -> tuple[str, ...]:
    weights = {BASE.id: a, EXPERT.id: b}
    return check_swap(engine, BASE, EXPERT, lambda recipe: iter(sorted(weights[recipe.id].items())), requests)


def start(host: Path, **settings: object) -> TransformersEngine:
    return TransformersEngine(TransformersConfig.model_validate({"kind": "transformers", **settings}), host)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_honest_engine_has_nothing_to_note(host: Path, dtype: Dtype) -> None:
    weights = load_weights(host)
    assert canary(start(host, dtype=dtype), weights, noise(weights)) == ()


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("q_proj", lambda tensor: tensor.roll(32, 0)),
        ("norm", lambda tensor: tensor + 1),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_every_swap_does_wrongly_is_seen(
    host: Path, part: str, wrong: Callable[[torch.Tensor], torch.Tensor], dtype: Dtype
) -> None:
    weights = load_weights(host)
    engine = WrongEngine(TransformersConfig(kind="transformers", dtype=dtype), host)
    engine.wrongly = lambda name, tensor: wrong(tensor) if part in name else tensor
    with pytest.raises(SwapError, match="does not answer as transformers does with the same weights") as caught:
        canary(engine, weights, noise(weights))
    assert "report it" in str(caught.value)
    assert "kind: transformers" not in str(caught.value), "it is the transformers engine"


def test_a_tensor_that_is_never_taken_is_seen_whichever_it_is(tmp_path: Path) -> None:
    host = make_checkpoint(tmp_path / "base", num_layers=1)
    weights = load_weights(host)
    engine = WrongEngine(TransformersConfig(kind="transformers"), host)
    for never in weights:
        engine.wrongly = lambda name, tensor, never=never: weights[name] if name == never else tensor  # type: ignore[misc]
        with pytest.raises(SwapError, match=r"as transformers does|output head"):
            canary(engine, weights, noise(weights), REQUESTS[1:])


@pytest.mark.parametrize("part", ["q_proj", "k_proj", None])
def test_rounding_to_bfloat16_hides_no_attention(tmp_path: Path, part: str | None) -> None:
    host = make_checkpoint(tmp_path / "base", num_layers=6)
    weights = load_weights(host)
    engine = WrongEngine(TransformersConfig(kind="transformers", dtype="bfloat16"), host)
    never = f"model.layers.5.self_attn.{part}.weight"
    engine.wrongly = lambda name, tensor: weights[name] if name == never else tensor
    expected = pytest.raises(SwapError, match="as transformers does") if part else nullcontext()
    with expected:
        assert canary(engine, weights, noise(weights), REQUESTS[1:]) == ()


class ChangingEngine(TransformersEngine):
    """Changes its answers: all to NaN for weights far from the host's, or those that may use the cache by some nats."""

    host: Weights
    nan, nats, far = False, 0.0, False

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        def seen() -> WeightStream:
            for name, tensor in weights:
                if "q_proj" in name:
                    self.far = not torch.allclose(tensor, self.host[name], atol=0.1)
                yield name, tensor

        return super().adopt(recipe, seen(), kept=kept)

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        return [
            replace(answer, logprobs=tuple(math.nan if self.nan and self.far else p - cached for p in answer.logprobs))
            for request, answer in zip(requests, super().answer(requests), strict=True)
            for cached in (self.nats if isinstance(request, Generate) and request.use_cache else 0,)
        ]


def changing(host: Path) -> ChangingEngine:
    engine = ChangingEngine(TransformersConfig(kind="transformers"), host)
    engine.host = load_weights(host)
    return engine


def test_nan_where_the_truth_is_a_number_is_a_fault(host: Path) -> None:
    engine = changing(host)
    engine.nan = True
    with pytest.raises(SwapError, match="as transformers does with the same weights, by inf"):
        canary(engine, engine.host, noise(engine.host))
    assert mean_gap(((-math.inf, -1.0),), ((-math.inf, -1.0),)) == 0


@pytest.mark.parametrize("nats", [0.3, 3.0, math.nan])
def test_a_fault_of_the_cache_does_not_set_the_tolerance(host: Path, nats: float) -> None:
    engine = changing(host)
    engine.nats = nats
    with pytest.raises(SwapError, match="prefix cache changes its answers"):
        canary(engine, engine.host, noise(engine.host))


def test_rounding_that_would_hide_a_fault_is_noted(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossbreed.fitness.canary.MAX_ROUNDING", 1e-9)
    weights = load_weights(host)
    [note] = canary(start(host, dtype="bfloat16"), weights, noise(weights))
    assert "would hide a fault" in note


class ReadingEngine(FakeEngine):
    """Starts on the weights in its folder, and may get later ones wrong."""

    error = 0.0

    def __init__(self, host: Path) -> None:
        super().__init__(FakeConfig(kind="fake"), host)
        self._folder = host
        self._moved = {name: 0 * values for name, values in self._host.items()}

    def as_started(self) -> Handle | None:
        return CurrentHandle(self, 0) if self.version == 0 else None

    def host_weights(self) -> WeightStream:
        yield from load_weights(self._folder).items()

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        return super().adopt(recipe, ((name, tensor + self.error) for name, tensor in weights), kept=kept)


FAKE_REQUESTS: list[Request] = [Generate(prompt=Prompt(text=f"sums|{i} + {i}|{2 * i}"), max_tokens=4) for i in range(8)]


def test_an_engine_answers_as_it_started(host: Path) -> None:
    weights = load_weights(host)
    engine = ReadingEngine(host)
    assert canary(engine, weights, noise(weights), FAKE_REQUESTS) == ()
    [note] = canary(engine, weights, noise(weights), FAKE_REQUESTS)
    assert "did not start on the host's weights" in note

    wrong = ReadingEngine(host)
    wrong.error = 0.01
    with pytest.raises(SwapError, match="as it did when it started on the same weights"):
        canary(wrong, weights, noise(weights), FAKE_REQUESTS)


def test_experts_that_change_no_answer_are_no_fault_of_the_engine(tmp_path: Path) -> None:
    host = make_checkpoint(tmp_path / "untied", tied=False, num_layers=1)
    weights = load_weights(host)
    unused = weights["model.embed_tokens.weight"].clone()
    unused[260:] = 1
    [note] = canary(start(host), weights, {**weights, "model.embed_tokens.weight": unused})
    assert note.startswith("no signal")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("mamba", "rwkv")]


@pytest.mark.parametrize("architecture", ["bloom", "falcon", "ctrl", "openai-gpt", *SLOW])
def test_heads_of_any_name_raise_no_alarm(tmp_path: Path, architecture: str) -> None:
    host = make_model(architecture, tmp_path / architecture)
    weights = load_weights(host)
    assert canary(start(host, max_model_len=400), weights, noise(weights)) == ()


@pytest.mark.parametrize("length", [31, 254, 257])
@pytest.mark.parametrize("kind", ["generate", "choice"])
def test_probes_fit_any_context_that_the_items_fit(host: Path, length: int, kind: str) -> None:
    prompt = Prompt(text="x" * (length - 4))
    request: Request
    if kind == "generate":
        request = Generate(prompt=prompt, max_tokens=4)
    else:
        request = Loglikelihood(prompt=prompt, continuation=" ab")
    weights = load_weights(host)
    assert canary(start(host, max_model_len=length), weights, noise(weights), [request]) == ()


def test_a_model_that_is_too_large_for_the_comparison_is_said(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MAX_BYTES", 1 << 20)
    weights = load_weights(host)
    [note] = canary(start(host), weights, noise(weights))
    assert "not compared with transformers'" in note
    assert "larger than 0.0 GiB" in note


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (1, 5), (2, 3, 4)])
@pytest.mark.parametrize("make", [torch.zeros, torch.ones, torch.randn])
def test_every_tensor_becomes_another_of_its_shape(shape: tuple[int, ...], make: Callable[..., torch.Tensor]) -> None:
    tensor = make(shape, dtype=torch.bfloat16)
    changed = other(tensor)
    assert (changed.shape, changed.dtype) == (tensor.shape, tensor.dtype)
    assert not torch.equal(changed, tensor)
    assert torch.equal(other(tensor.clone()), changed)
