"""Mixing factors: what algebra promises, what the papers' formula is, and who is refused."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merges import inputs_of_tensors, merged, recipe_of

from crossbreed.errors import InputError, InvalidWeights
from crossbreed.kernels import check_recipe, materialize
from crossbreed.kernels.executors import NATIVE, TORCH_BLOCKS, execute
from crossbreed.kernels.materialize import program_of
from crossbreed.kernels.operators import CHECKS
from crossbreed.kernels.programs import Affine
from crossbreed.kernels.tensors import TensorInputs
from crossbreed.sources import LowRank, open_sources
from crossbreed.testing.toy_merges import EMBEDDING, MATRIX, ToyMerge
from crossbreed.testing.toys import make_adapter
from crossbreed.types import ParamValue, Rule

EXPERTS = ("a", "b", "c")
MERGE = ToyMerge.of_adapters(EXPERTS)
quick = settings(max_examples=8, deadline=None)
weights = st.fixed_dictionaries(dict.fromkeys(EXPERTS, st.floats(-1.5, 1.5).map(lambda w: round(w, 6))))
densities = st.fixed_dictionaries(dict.fromkeys(EXPERTS, st.integers(0, 1024).map(lambda step: step / 1024)))
shapes = st.sampled_from([MATRIX, EMBEDDING])


def rule(**params: ParamValue) -> Rule:
    return Rule(match=".*", operator="lora_factors", params=params)


def bits(inputs: TensorInputs, **params: ParamValue) -> bytes:
    return merged(inputs, rule(**params)).numpy().tobytes()


def factors(merge: ToyMerge, expert: str, name: str = MATRIX) -> LowRank:
    low = merge.experts[expert][name]
    assert isinstance(low, LowRank)
    return low


@quick
@given(weight=weights, density=densities, name=shapes)
def test_permuting_sources_changes_no_bit(weight: dict[str, float], density: dict[str, float], name: str) -> None:
    first = bits(MERGE.inputs(name), weight=weight, density=density)
    for permuted in permutations(EXPERTS):
        names = dict(zip(EXPERTS, permuted, strict=True))
        renamed = ({names[key]: value for key, value in given.items()} for given in (weight, density))
        assert bits(MERGE.inputs(name, names=names), **dict(zip(("weight", "density"), renamed, strict=True))) == first


@quick
@given(weight=weights, density=densities, name=shapes)
def test_turning_all_signs_changes_no_bit(weight: dict[str, float], density: dict[str, float], name: str) -> None:
    turned = {key: -value for key, value in weight.items()}
    one, other = (bits(MERGE.inputs(name), weight=given, density=density) for given in (weight, turned))
    assert one == other


@pytest.mark.parametrize("name", [MATRIX, EMBEDDING])
@pytest.mark.parametrize("expert", EXPERTS)
def test_one_adapter_with_weight_1_is_its_own_merge(expert: str, name: str) -> None:
    """Bit by bit, and whatever the scale."""
    inputs = MERGE.inputs(name)
    plain = merged(inputs, Rule(match=".*", operator="task_arithmetic", params={"weight": {expert: 1.0}}))
    assert bits(inputs, weight={expert: 1.0}) == plain.numpy().tobytes()


@quick
@given(weight=weights, name=shapes)
def test_density_1_keeps_all(weight: dict[str, float], name: str) -> None:
    assert bits(MERGE.inputs(name), weight=weight, density=1.0) == bits(MERGE.inputs(name), weight=weight)


def test_it_is_the_papers_formula() -> None:
    """With equal scales: B_m A_m alpha / r; the terms of two adapters are part of it, and weights are squared."""
    a, b = (factors(MERGE, expert) for expert in ("a", "b"))
    lora_a = 0.7 * a.a_RN.double() - 0.4 * b.a_RN.double()
    lora_b = 0.7 * a.b_MR.double() - 0.4 * b.b_MR.double()
    meant = MERGE.base[MATRIX].double() + a.scale * lora_b @ lora_a
    got = merged(MERGE.inputs(MATRIX), rule(weight={"a": 0.7, "b": -0.4})).double()
    torch.testing.assert_close(got, meant, rtol=0, atol=1e-6)
    deltas = 0.7 * a.scale * a.b_MR @ a.a_RN - 0.4 * b.scale * b.b_MR @ b.a_RN
    assert not torch.allclose(got.float(), MERGE.base[MATRIX] + deltas, atol=1e-3)


def test_an_adapter_under_two_names_is_one() -> None:
    low = factors(MERGE, "a")
    one = ToyMerge(base=MERGE.base, experts={"a": {MATRIX: low}, "b": {MATRIX: factors(MERGE, "b")}}).inputs(MATRIX)
    twice = replace(
        one,
        experts=(*one.experts, replace(one.experts[0], name="copy")),
        expert_names=("a", "b", "copy"),
        expert_hashes=("a", "b", "a"),
    )
    halves = {"a": 0.1, "copy": 0.2, "b": 0.6}
    assert bits(twice, weight=halves) == bits(one, weight={"a": 0.1 + 0.2, "b": 0.6})


def test_scales_of_their_own_are_kept() -> None:
    a, b = factors(MERGE, "a"), replace(factors(MERGE, "b"), scale=2 / 3)
    inputs = inputs_of_tensors(torch.zeros(24, 40), {"a": a, "b": b})
    lora_b = a.scale * a.b_MR.double() + b.scale * b.b_MR.double()
    meant = lora_b @ (a.a_RN.double() + b.a_RN.double())
    torch.testing.assert_close(merged(inputs, rule(weight=1.0)).double(), meant, rtol=0, atol=1e-5)
    alone = merged(inputs, Rule(match=".*", operator="task_arithmetic", params={"weight": {"b": 1.0}}))
    assert bits(inputs, weight={"b": 1.0}) == alone.numpy().tobytes()


@pytest.mark.parametrize(
    ("density", "kept"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.5, 2), (0.75, 3), (0.99, 3), (1.0, 4)]
)
@pytest.mark.parametrize("transposed", [False, True])
def test_of_equal_magnitudes_those_that_come_first_stay(density: float, kept: int, transposed: bool) -> None:
    """A alone is thinned out, in its own order: also where the base stores the matrix transposed."""
    low = LowRank(a_RN=torch.tensor([[1.0, -2.0], [2.0, 2.0]]), b_MR=torch.ones(3, 2), scale=1.0)
    order = [(0, 1), (1, 0), (1, 1), (0, 0)]
    thinned = torch.zeros(2, 2)
    for place in order[:kept]:
        thinned[place] = low.a_RN[place]
    delta = low.b_MR @ thinned
    stored, meant = (low.turned, delta.T) if transposed else (low, delta)
    inputs = inputs_of_tensors(torch.zeros(meant.shape), {"a": stored})
    assert torch.equal(merged(inputs, rule(weight=1.0, density=density)), meant)


@quick
@given(weight=weights, density=densities, name=shapes)
def test_the_merge_is_an_adapter_that_every_executor_makes_alike(
    weight: dict[str, float], density: dict[str, float], name: str
) -> None:
    inputs = MERGE.inputs(name)
    program = program_of(inputs, rule(weight=weight, density=density))
    assert isinstance(program, Affine)
    assert [len(expert.value.a_RN) for _, expert in program.shares if isinstance(expert.value, LowRank)] in ([3], [])
    native, torch_blocks = (
        execute(program, inputs.base, torch.float32, executor=executor) for executor in (NATIVE, TORCH_BLOCKS)
    )
    assert torch.equal(native, torch_blocks)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["a_RN", "b_MR"])
def test_nan_and_infinity_are_not_lost(value: float, side: str) -> None:
    low = factors(MERGE, "a")
    broken = getattr(low, side).clone()
    broken[0, 0] = value
    inputs = inputs_of_tensors(MERGE.base[MATRIX], {"a": replace(low, **{side: broken}), "b": factors(MERGE, "b")})
    with pytest.raises(InvalidWeights):
        merged(inputs, rule(weight=0.5, density=0.1))
    assert merged(inputs, rule(weight={"b": 0.5})).isfinite().all()


def test_full_checkpoints_and_other_ranks_are_refused_before_a_weight_is_read(
    tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path], toy_adapters: dict[str, Path]
) -> None:
    full = open_sources(str(toy_base), {"plain": str(toy_adapters["plain"]), "full": str(toy_experts["everything"])})
    with pytest.raises(InputError, match="`full` has none"):
        check_recipe(recipe_of(full, "lora_factors", weight=1.0), full)
    other = open_sources(str(toy_base), {name: str(path) for name, path in toy_adapters.items()})
    with pytest.raises(InputError, match="ranks differ") as caught:
        check_recipe(recipe_of(other, "lora_factors", weight=1.0), other)
    assert "`plain` 4, `stabilised` 8" in caught.value.got
    twin = make_adapter(tmp_path / "twin", base=toy_base, seed=9)
    alike = open_sources(str(toy_base), {"plain": str(toy_adapters["plain"]), "twin": str(twin)})
    recipe = recipe_of(alike, "lora_factors", weight={"plain": 0.6, "twin": 0.3}, density=0.5)
    check_recipe(recipe, alike)
    changed = {name for name, made in materialize(recipe, alike) if not torch.equal(made, alike.base.tensor(name))}
    assert changed == alike.structure.touched_by_any


def test_an_embedding_and_its_tied_head_cannot_be_added() -> None:
    low = factors(MERGE, "a", EMBEDDING)
    experts = {"a": {EMBEDDING: low}, "b": {EMBEDDING: replace(low, transposed=False)}}
    with pytest.raises(InputError, match="head that is tied"):
        CHECKS["lora_factors"](ToyMerge(base=MERGE.base, experts=experts).inputs(EMBEDDING), rule(weight=1.0))
