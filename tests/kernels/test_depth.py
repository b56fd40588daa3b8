"""A depth profile (LiNeS) scales what any operator adds to the base, layer by layer."""

import pytest
import torch
from merges import changed, inputs_of_tensors, recipe_of, write_weights
from safetensors.torch import load_file

from crossbreed.kernels import materialize
from crossbreed.kernels.executors import execute
from crossbreed.kernels.materialize import program_of
from crossbreed.kernels.reference import materialize_fp64, merged_fp64
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.sources import LowRank, Sources, layer_of, open_sources
from crossbreed.testing.toys import make_checkpoint
from crossbreed.types import ParamValue, Rule

generator = torch.Generator().manual_seed(0)
BASE = torch.randn(24, 40, generator=generator)
NEED_ARTIFACTS = ("regmean", "bmm", "anchored_regression")
VALUES = [BASE + scale * torch.randn(24, 40, generator=generator) for scale in (0.3, 0.5)]
ADAPTERS = [
    LowRank(a_RN=torch.randn(2, 40, generator=generator), b_MR=torch.randn(24, 2, generator=generator), scale=scale)
    for scale in (0.3, 0.5)
]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Three layers, and two full experts that change every tensor."""
    root = tmp_path_factory.mktemp("deep")
    base = make_checkpoint(root / "base", num_layers=3, dtype=torch.float32)
    weights = load_file(base / "model.safetensors")
    paths = {key: write_weights(root / key, like=base, weights=changed(weights, seed=i)) for i, key in enumerate("ab")}
    return open_sources(str(base), {key: str(path) for key, path in paths.items()})


def deltas(sources: Sources, **params: ParamValue) -> dict[str, torch.Tensor]:
    recipe = recipe_of(sources, "task_arithmetic", dtype="float32", weight={"a": 0.6, "b": -0.2}, **params)
    reference = dict(materialize_fp64(recipe, sources))
    merged = dict(materialize(recipe, sources))
    for name, expected in reference.items():
        assert torch.allclose(merged[name].double(), expected, rtol=0, atol=1e-6), name
    return {name: merged[name] - sources.base.tensor(name) for name in reference}


def test_each_layer_has_its_factor_and_what_is_in_none_has_alpha(deep: Sources) -> None:
    plain, scaled = deltas(deep), deltas(deep, lines_alpha=0.25, lines_beta=1.5)
    for name, delta in plain.items():
        layer = layer_of(name)
        factor = 0.25 if layer is None else (0.25, 1.0, 1.75)[layer]
        assert torch.allclose(scaled[name], factor * delta, rtol=0, atol=2e-6), name


@pytest.mark.parametrize("depth", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("operator", [name for name in OPERATOR_SPECS if name not in NEED_ARTIFACTS])
def test_any_operator_has_it(operator: str, depth: float | None) -> None:
    spec = OPERATOR_SPECS[operator]
    _, most = spec.num_experts
    experts = dict(zip("ab"[:most], ADAPTERS if spec.mixes_factors else VALUES, strict=False))
    needed = {param.name: 0.5 for param in spec.params if param.required} | {"lines_alpha": 0.5, "lines_beta": 0.7}
    params = {key: "a" if key == "source" else value for key, value in needed.items()}
    inputs, rule = inputs_of_tensors(BASE, experts, depth=depth), Rule(match=".*", operator=operator, params=params)
    bare = Rule(match=".*", operator=operator, params={k: v for k, v in params.items() if not k.startswith("lines")})
    whole = execute(program_of(inputs, bare), BASE, torch.float32)
    factor = 0.5 + 0.7 * (depth or 0.0)
    out = execute(program_of(inputs, rule), BASE, torch.float32)
    assert torch.allclose(out, BASE + factor * (whole - BASE), rtol=0, atol=1e-5)
    expected = Tensor.of(inputs)
    assert torch.allclose(out.double(), merged_fp64(expected, rule), rtol=0, atol=1e-4)


@pytest.mark.parametrize("operator", ["linear", "task_arithmetic", "slerp"])
def test_no_factor_at_all_is_the_base(operator: str) -> None:
    params: dict[str, ParamValue] = {"t": 0.5} if operator == "slerp" else {"weight": 0.5}
    inputs = inputs_of_tensors(BASE, {"a": VALUES[0]})
    rule = Rule(match=".*", operator=operator, params=params | {"lines_alpha": 0.0})
    assert execute(program_of(inputs, rule), BASE, torch.float32) is BASE


def test_a_factor_of_one_changes_no_bit(deep: Sources) -> None:
    plain, scaled = deltas(deep), deltas(deep, lines_alpha=1.0, lines_beta=0.0)
    assert all(torch.equal(plain[name], scaled[name]) for name in plain)
