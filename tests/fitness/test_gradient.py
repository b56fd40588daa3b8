"""The gradient that an engine takes, against finite differences of the loss in fp64."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from crossbreed.errors import EngineError, InvalidWeights
from crossbreed.fitness import Differentiable, Loglikelihood, Prompt, TransformersConfig, build_engine
from crossbreed.fitness.engines.answer_losses import hidden_error, kullback_leibler
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.testing.fakes import FakeEngine
from crossbreed.testing.toys import make_checkpoint
from crossbreed.types import Recipe

RECIPE = Recipe(base="base", sources={"base": "hash"}, rules=())
REQUESTS = [
    Loglikelihood(prompt=Prompt(text="34 + 12 ="), continuation=" 46\n"),
    Loglikelihood(prompt=Prompt(text="The capital of France, which has many towns, is"), continuation=" Paris"),
    Loglikelihood(prompt=Prompt(text=""), continuation="Once"),
]
WEIGHTS = [0.5, 0.3, -0.2]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("toy"), tied=request.param, num_layers=2)


def engine_with(weights: Mapping[str, torch.Tensor], folder: Path, dtype: str = "float32") -> Differentiable:
    built = build_engine(TransformersConfig.model_validate({"kind": "transformers", "dtype": dtype}), folder)
    assert isinstance(built, Differentiable)
    built.adopt(RECIPE, iter(sorted(weights.items())))
    return built


def test_it_is_the_slope_of_the_loss_along_every_tensor(folder: Path) -> None:
    """Along a direction of each tensor, an embedding that is also the head included."""
    weights = load_file(folder / "model.safetensors")
    found = dict(engine_with(weights, folder).gradient(REQUESTS, WEIGHTS, tokens=1024))
    assert list(found) == sorted(weights)
    model, encoder = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64), Encoder(folder)

    @torch.no_grad()
    def loss() -> float:
        total = 0.0
        for request, weight in zip(REQUESTS, WEIGHTS, strict=True):
            encoded = encoder.encode(request)
            logprobs_TV = model(torch.tensor([encoded.token_ids])).logits[0].log_softmax(-1)
            scored = range(encoded.num_prompt, len(encoded.token_ids))
            total -= weight * sum(float(logprobs_TV[i - 1, encoded.token_ids[i]]) for i in scored) / len(scored)
        return total

    def slope(parameter: torch.nn.Parameter, direction: torch.Tensor, step: float) -> float:
        before = parameter.data.clone()
        losses = []
        for way in (1, -1):
            parameter.data = before + way * step * direction
            losses.append(loss())
        parameter.data = before
        return (losses[0] - losses[1]) / (2 * step)

    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        assert found[name].dtype == torch.float32
        chance = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction = chance / chance.norm() + found[name] / found[name].norm()  # chance alone is nearly flat
        near, far = (slope(parameter, direction, step) for step in (2e-3, 4e-3))  # its norms are fp32 in fp64, too
        expected = (4 * near - far) / 3  # Richardson: without the error of third order
        assert float((found[name].double() * direction).sum()) == pytest.approx(expected, rel=5e-3), name


def test_batches_change_nothing_but_rounding(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    engine = engine_with(weights, folder)
    at_once = dict(engine.gradient(REQUESTS, WEIGHTS, tokens=1024))
    one_by_one = dict(engine.gradient(REQUESTS, WEIGHTS, tokens=1))
    for name, tensor in at_once.items():
        assert torch.allclose(one_by_one[name], tensor, atol=1e-5 * float(tensor.abs().max()), rtol=1e-4), name


def test_the_same_question_has_the_same_gradient_after_answers_and_swaps(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    engine = engine_with(weights, folder)
    first = dict(engine.gradient(REQUESTS, WEIGHTS, tokens=64))
    other = {name: tensor + 0.1 for name, tensor in weights.items()}
    handle = engine.adopt(RECIPE, iter(sorted(other.items())))
    handle.answer(REQUESTS)
    next(engine.gradient(REQUESTS, WEIGHTS, tokens=64))  # left half read
    engine.adopt(RECIPE, iter(sorted(weights.items())))
    again = dict(engine.gradient(REQUESTS, WEIGHTS, tokens=64))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_tensor_is_let_go_of_as_the_next_is_asked_for(folder: Path) -> None:
    engine = engine_with(load_file(folder / "model.safetensors"), folder)
    stream = engine.gradient(REQUESTS, WEIGHTS, tokens=1024)
    held = [parameter for parameter in engine._model.parameters() if parameter.grad is not None]  # type: ignore[attr-defined]
    for left in range(len(held) - 1, -1, -1):
        next(stream)
        assert sum(parameter.grad is not None for parameter in held) == left


def test_weights_without_a_loss_are_invalid_and_an_old_gradient_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    engine = engine_with(weights, folder)
    stale = engine.gradient(REQUESTS, WEIGHTS, tokens=1024)
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}
    engine.adopt(RECIPE, iter(sorted(broken.items())))
    with pytest.raises(EngineError, match="gradient is no longer valid"):
        next(stale)
    with pytest.raises(InvalidWeights, match="NaN"):
        engine.gradient(REQUESTS, WEIGHTS, tokens=1024)


def test_not_every_engine_can() -> None:
    assert not issubclass(FakeEngine, Differentiable)


def test_a_distilled_loss_is_the_divergence_from_the_expert() -> None:
    """In fp64 by its definition: KL(expert, ours) of predictions at a temperature, times its square."""
    draw = torch.Generator().manual_seed(3)
    ours, theirs = (torch.randn(5, 11, dtype=torch.float64, generator=draw) for _ in range(2))
    for temperature in (1.0, 2.5):
        p, q = ((one / temperature).softmax(-1) for one in (theirs, ours))
        wanted = temperature**2 * (p * (p / q).log()).sum(-1).mean()
        found = kullback_leibler(ours, theirs.log_softmax(-1), temperature=temperature)
        assert torch.allclose(found, wanted, rtol=1e-12)
    assert kullback_leibler(ours, ours.log_softmax(-1), temperature=2.0).abs() < 1e-12
    pairs = [(torch.zeros(4, 3), torch.ones(4, 3)), (torch.ones(4, 3), torch.full((4, 3), 3.0))]
    assert hidden_error(*zip(*pairs, strict=True)) == 2.5
