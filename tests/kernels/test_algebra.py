"""What algebra promises, bit by bit; and how far the rest may be from fp64."""

from itertools import permutations
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from merges import UP, opened, recipe_of

from crossbreed.kernels import materialize, tensors
from crossbreed.kernels.materialize import expert_tensors
from crossbreed.kernels.reference import materialize_fp64
from crossbreed.kernels.tensors import ExpertTensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.sources import LowRank, Sources
from crossbreed.types import Recipe

EXPERTS = ("a", "b", "mlp", "p", "q")
weights = st.floats(-1.5, 1.5, allow_subnormal=False).map(lambda w: round(w, 4))
per_expert = st.fixed_dictionaries(dict.fromkeys(EXPERTS, weights))
densities = st.fixed_dictionaries(dict.fromkeys(EXPERTS, st.floats(0.01, 1.0)))
quick = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def bits(recipe: Recipe, sources: Sources) -> dict[str, bytes]:
    stream = materialize(recipe, sources)
    return {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in stream}


def bits_of(sources: Sources, expert: str) -> dict[str, bytes]:
    checkpoint = sources.experts[expert]
    names = sorted(checkpoint.tensors)
    return {name: checkpoint.tensor(name).reshape(-1).view(torch.uint8).numpy().tobytes() for name in names}


def size_of(expert: ExpertTensor, base: torch.Tensor) -> torch.Tensor:
    """The sum of the magnitudes of the terms that make a delta."""
    if isinstance(expert.value, LowRank):
        return expert.value.scale * expert.value.b_MR.double().abs() @ expert.value.a_RN.double().abs()
    return expert.value.double().abs() + base.abs()


OPERATOR_PARAMS = [
    ("linear", {}),
    ("linear", {"normalize": False}),
    ("task_arithmetic", {"scale": 0.7}),
    ("ties", {"density": 0.4}),
    ("ties", {"density": {"a": 0.2, "q": 0.9}, "normalize": False, "scale": 1.3}),
]


@pytest.mark.parametrize(("operator", "params"), OPERATOR_PARAMS)
def test_permuting_sources_with_their_coefficients_changes_no_bit(
    models: dict[str, Path], operator: str, params: dict
) -> None:
    weight = {"a": 0.31, "b": -0.17, "mlp": 0.9, "p": 0.55, "q": 0.23}
    seen = []
    for names in list(permutations(EXPERTS))[::23]:
        called = dict(zip(EXPERTS, names, strict=True))
        sources = opened(models, {called[key]: key for key in reversed(names)})
        moved = {
            name: {called[key]: number for key, number in value.items()} if isinstance(value, dict) else value
            for name, value in (params | {"weight": weight}).items()
        }
        seen.append(bits(recipe_of(sources, operator, **moved), sources))
    assert all(other == seen[0] for other in seen[1:])


@pytest.mark.parametrize(
    ("operator", "params"),
    [
        ("linear", {"weight": {"base": 0.4}}),
        ("linear", {"weight": {"base": 1.0}, "normalize": False}),
        ("task_arithmetic", {"weight": 0.0}),
        ("task_arithmetic", {"weight": 0.8, "scale": 0.0}),
        ("ties", {"weight": 0.0, "density": 0.5}),
        ("ties", {"weight": 0.8, "scale": 0.0}),
    ],
)
def test_no_weight_is_the_base(sources: Sources, operator: str, params: dict) -> None:
    recipe = recipe_of(sources, operator, **params)
    nothing = recipe_of(sources, operator, match="nothing", weight=1.0)
    assert bits(recipe, sources) == bits(nothing, sources)


@pytest.mark.parametrize(
    ("operator", "params"),
    [
        ("linear", {"weight": {"a": 0.3}}),
        ("linear", {"weight": {"a": 1.0}, "normalize": False}),
        ("task_arithmetic", {"weight": {"a": 1.0}}),
        ("task_arithmetic", {"weight": {"a": 0.5}, "scale": 2.0}),
        ("ties", {"weight": {"a": 0.3}}),
        ("ties", {"weight": {"a": 1.0}, "normalize": False}),
    ],
)
def test_an_endpoint_is_the_expert(sources: Sources, operator: str, params: dict) -> None:
    assert bits(recipe_of(sources, operator, **params), sources) == bits_of(sources, "a")


@pytest.mark.parametrize("operator", ["linear", "task_arithmetic"])
@pytest.mark.parametrize("key", ["a", "p"])
def test_splitting_a_weight_over_copies_changes_no_bit(models: dict[str, Path], operator: str, key: str) -> None:
    twice, once = opened(models, {"x": key, "y": key, "b": "b"}), opened(models, {"x": key, "b": "b"})
    split = recipe_of(twice, operator, weight={"x": 0.3, "y": 0.7, "b": 0.2})
    whole = recipe_of(once, operator, weight={"x": 1.0, "b": 0.2})
    assert bits(split, twice) == bits(whole, once)


def test_what_falls_halfway_is_rounded_as_exact_arithmetic_rounds_it(models: dict[str, Path]) -> None:
    """Averages of bfloat16 weights fall halfway between two of them, often: there fp32 must not lose the tie."""
    full = opened(models, {"a": "a", "b": "b"})
    for operator, params in [("task_arithmetic", {"weight": 0.5}), ("linear", {"weight": {"base": 1, "a": 1, "b": 2}})]:
        recipe = recipe_of(full, operator, **params)
        reference = dict(materialize_fp64(recipe, full))
        for name, tensor in materialize(recipe, full):
            if name in reference:
                assert torch.equal(tensor, reference[name].bfloat16()), name


def test_ties_of_copies_is_one_of_them(models: dict[str, Path]) -> None:
    twice, once = opened(models, {"x": "a", "y": "a"}), opened(models, {"x": "a"})
    split = recipe_of(twice, "ties", weight={"x": 0.25, "y": 0.5}, density=0.3)
    assert bits(split, twice) == bits(recipe_of(once, "ties", weight=1.0, density=0.3), once)


@pytest.mark.parametrize(("operator", "params"), OPERATOR_PARAMS)
def test_block_size_changes_no_bit(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, operator: str, params: dict
) -> None:
    full = opened(models, {"a": "a", "b": "b"})
    kept = {name: {k: v for k, v in p.items() if k in "ab"} if isinstance(p, dict) else p for name, p in params.items()}
    recipe = recipe_of(full, operator, weight={"a": 0.4, "b": 0.3}, **kept)
    before = bits(recipe, full)
    monkeypatch.setattr(tensors, "BLOCK", 1000)
    assert bits(recipe, full) == before


@pytest.mark.parametrize("operator", ["linear", "task_arithmetic", "ties"])
def test_an_adapter_is_its_fp32_checkpoint(models: dict[str, Path], operator: str) -> None:
    params = {"weight": {"x": 0.6, "b": 0.3}, **({"density": 0.5} if operator == "ties" else {})}
    low, dense = opened(models, {"x": "p", "b": "b"}), opened(models, {"x": "p_dense", "b": "b"})
    ours = dict(materialize(recipe_of(low, operator, dtype="float32", **params), low))
    theirs = dict(materialize(recipe_of(dense, operator, dtype="float32", **params), dense))
    off = sum(int(((ours[n] - theirs[n]).abs() > 1e-6).sum()) for n in ours)
    assert off <= (1e-4 if operator == "ties" else 0) * sum(tensor.numel() for tensor in ours.values())


@quick
@given(
    weight=per_expert,
    scale=st.floats(0.1, 2.0),
    normalize=st.booleans(),
    operator=st.sampled_from(["linear", "task_arithmetic"]),
)
def test_affine_operators_are_within_eight_ulps_of_fp64(
    sources: Sources, weight: dict, scale: float, normalize: bool, operator: str
) -> None:
    """An ulp of the sum of the magnitudes of the terms: where they cancel, so do their digits."""
    params, of_base = {"weight": weight, "scale": scale}, 1.0
    if operator == "linear":
        total = sum(weight.values()) + 1.0
        normalize = normalize and abs(total) > 0.1
        params = {"weight": {**weight, "base": 1.0}, "normalize": normalize}
        scale, of_base = (1 / total, 1.0) if normalize else (1.0, total)
    recipe = recipe_of(sources, operator, dtype="float32", **params)
    merged, reference = dict(materialize(recipe, sources)), dict(materialize_fp64(recipe, sources))
    for name, expected in reference.items():
        base = sources.base.tensor(name).double()
        sizes = {expert.name: size_of(expert, base) for expert in expert_tensors(name, sources.experts)}
        magnitude = abs(of_base) * base.abs() + sum(abs(scale * weight[key]) * size for key, size in sizes.items())
        assert ((merged[name].double() - expected).abs() <= 8 * 2**-24 * magnitude + 1e-30).all(), name


@quick
@given(
    weight=st.fixed_dictionaries(dict.fromkeys(("a", "b", "mlp"), st.floats(0.1, 1.5))),
    density=densities,
    scale=st.floats(0.1, 2.0),
    normalize=st.booleans(),
)
def test_ties_is_within_eight_ulps_of_fp64_where_the_vote_is_clear(
    sources: Sources, weight: dict, density: dict, scale: float, normalize: bool
) -> None:
    params = {"weight": weight, "density": density, "scale": scale, "normalize": normalize}
    recipe = recipe_of(sources, "ties", dtype="float32", **params)
    merged, reference = dict(materialize(recipe, sources)), dict(materialize_fp64(recipe, sources))
    off, count = 0, 0
    for name, expected in reference.items():
        base = sources.base.tensor(name).double()
        deltas = sum(
            (expert.value.double() - base).abs()
            for expert in expert_tensors(name, sources.experts)
            if expert.name in weight
        )
        magnitude = base.abs() + 2 * scale * 1.5 * deltas
        off += int(((merged[name].double() - expected).abs() > 8 * 2**-24 * magnitude + 1e-30).sum())
        count += expected.numel()
    assert off <= 1e-4 * count


@quick
@given(weight=per_expert, density=densities)
def test_ties_with_adapters_and_negative_weights_differs_in_few_places(
    sources: Sources, weight: dict, density: dict
) -> None:
    """Rounded factors move elements over the threshold, and a nearly balanced vote turns: rarely."""
    recipe = recipe_of(sources, "ties", dtype="float32", weight=weight, density=density, normalize=False)
    merged, reference = dict(materialize(recipe, sources)), dict(materialize_fp64(recipe, sources))
    off = sum(int(((merged[name].double() - expected).abs() > 1e-6).sum()) for name, expected in reference.items())
    assert off <= 1e-4 * sum(tensor.numel() for tensor in reference.values())


def test_ties_does_something_else_than_task_arithmetic(sources: Sources) -> None:
    ties = dict(materialize(recipe_of(sources, "ties", weight=0.5, density=0.5), sources))
    sums = dict(materialize(recipe_of(sources, "task_arithmetic", weight=0.5), sources))
    assert not torch.equal(ties[UP], sums[UP])
    assert OPERATOR_SPECS["ties"].scalar(recipe_of(sources, "ties", weight=1.0).rules[0], "normalize") == 1.0
