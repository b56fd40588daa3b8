"""TSV-M: the core form is the direct form, and its algebra."""

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from merges import UP, inputs_of_tensors, opened, recipe_of

from crossbreed.errors import InvalidWeights
from crossbreed.kernels import ARITHMETIC, SourceCache, materialize
from crossbreed.kernels.executors import execute
from crossbreed.kernels.linalg.decompositions import polar, svd
from crossbreed.kernels.prepared.singular_factors import singular_factors
from crossbreed.kernels.reference import REFERENCES, materialize_fp64
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.kernels.tensors import ExpertTensor
from crossbreed.sources import LowRank, Sources
from crossbreed.types import ParamValue, Rule

EXPERTS = ("a", "b", "mlp", "p", "q")
DOWN = "model.layers.0.mlp.down_proj.weight"
weights = st.floats(-1.5, 1.5, allow_subnormal=False).map(lambda w: round(w, 4))
per_expert = st.fixed_dictionaries(dict.fromkeys(EXPERTS, weights))
ranks = st.fixed_dictionaries(dict.fromkeys(EXPERTS, st.floats(0.05, 1.0)))
quick = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Decompositions of small matrices on two threads are mostly waiting."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def adapter(num_rows: int, num_columns: int, rank: int, seed: int) -> LowRank:
    return LowRank(a_RN=noise(rank, num_columns, seed=seed), b_MR=noise(num_rows, rank, seed=seed + 1), scale=0.7)


def merged(
    base: torch.Tensor, experts: dict[str, torch.Tensor | LowRank], name: str = UP, **params: ParamValue
) -> tuple[torch.Tensor, torch.Tensor]:
    """The fast result in fp32, and the reference in fp64."""
    inputs = inputs_of_tensors(base, experts, name=name)
    rule = Rule(match=".*", operator="tsv_m", params=params)
    fast = execute(ARITHMETIC["tsv_m"](inputs, rule), base, torch.float32)
    return fast, REFERENCES["tsv_m"](Tensor.of(inputs), rule)


def test_svd_and_polar_factor_are_what_lapack_says() -> None:
    for shape in [(30, 20), (20, 30), (1, 7)]:
        matrix = noise(*shape).double()
        found = svd(matrix)
        assert torch.allclose(found.left_MR * found.values_R @ found.right_NR.T, matrix, atol=1e-12)
        assert torch.allclose(found.values_R, torch.linalg.svdvals(matrix), atol=1e-12)
    basis = noise(30, 12).double()
    left, _, right = torch.linalg.svd(basis, full_matrices=False)
    assert torch.allclose(polar(basis).double(), left @ right, atol=1e-6)


def test_an_adapter_has_the_singular_triplets_of_its_matrix() -> None:
    low, base = adapter(40, 30, 5, seed=3), torch.zeros(40, 30)
    dense = low.scale * low.b_MR @ low.a_RN
    of_low, of_dense = (singular_factors(ExpertTensor(name="x", hash="x", value=v), base, 9) for v in (low, dense))
    assert len(of_low.values_R) == len(of_dense.values_R) == 5
    assert torch.allclose(of_low.values_R, of_dense.values_R, rtol=1e-5)
    assert torch.allclose(of_low.left_MR * of_low.values_R @ of_low.right_NR.T, dense, atol=1e-5)


def test_parallel_directions_are_held_by_the_floor() -> None:
    """Two experts that learned nearly the same: without the floor their difference would be blown up 10^5 times."""
    one = noise(20, 1).double()
    basis = torch.cat([one, one + 1e-5 * noise(20, 1, seed=1).double()], 1)
    assert polar(basis).norm(dim=0).max() < 1


@quick
@given(weight=per_expert, rank=ranks, scale=st.floats(0.1, 2.0))
def test_the_core_form_is_the_direct_form(sources: Sources, weight: dict, rank: dict, scale: float) -> None:
    """Within 1e-5 of the merged delta, and an ulp of the result."""
    recipe = recipe_of(sources, "tsv_m", dtype="float32", weight=weight, rank=rank, scale=scale)
    cache = SourceCache()
    fast = dict(materialize(recipe, sources, cache))
    for name, expected in materialize_fp64(recipe, sources):
        size = (expected - sources.base.tensor(name).double()).abs().max()
        assert ((fast[name].double() - expected).abs() <= 1e-5 * size + 2**-22 * expected.abs()).all(), name
    again = dict(materialize(recipe, sources, cache))
    assert all(torch.equal(again[name], fast[name]) for name in fast)


def test_permuting_experts_changes_no_bit(models: dict[str, Path]) -> None:
    weight, rank = {"a": 0.31, "b": -0.17, "mlp": 0.9, "p": 0.55, "q": 0.23}, {"a": 0.5, "q": 0.2}
    seen = []
    for names in list(permutations(EXPERTS))[::40]:
        called = dict(zip(EXPERTS, names, strict=True))
        sources = opened(models, {called[key]: key for key in reversed(names)})
        moved = [{called[key]: number for key, number in value.items()} for value in (weight, rank)]
        recipe = recipe_of(sources, "tsv_m", weight=moved[0], rank=moved[1])
        seen.append(dict(materialize(recipe, sources)))
    assert all(torch.equal(other[name], seen[0][name]) for other in seen[1:] for name in other)


def test_copies_with_different_shares_may_be_exchanged(models: dict[str, Path]) -> None:
    sources = opened(models, {"x": "a", "y": "a", "b": "b"})
    seen = []
    for weight, rank in [({"x": 0.3, "y": 0.8}, {"x": 0.2, "y": 0.9}), ({"x": 0.8, "y": 0.3}, {"x": 0.9, "y": 0.2})]:
        recipe = recipe_of(sources, "tsv_m", match=UP, dtype="float32", weight=weight | {"b": 0.4}, rank=rank)
        seen.append(dict(materialize(recipe, sources))[UP])
    assert torch.equal(*seen)


def test_of_two_copies_it_is_the_mean(models: dict[str, Path]) -> None:
    """Parallel directions share one place: each of two copies has 1/sqrt(2) of it on both sides."""
    sources = opened(models, {"x": "p", "y": "p"})
    twice = dict(materialize(recipe_of(sources, "tsv_m", dtype="float32", weight=1.0), sources))
    one = opened(models, {"x": "p"})
    once = dict(materialize(recipe_of(one, "tsv_m", dtype="float32", weight=1.0), one))
    assert all(torch.allclose(twice[name], once[name], atol=1e-5) for name in once)


@pytest.mark.parametrize("key", ["a", "p"])
def test_one_expert_at_full_rank_is_that_expert(models: dict[str, Path], key: str) -> None:
    sources = opened(models, {"x": key})
    ours = dict(materialize(recipe_of(sources, "tsv_m", weight=1.0), sources))
    theirs = dict(materialize(recipe_of(sources, "task_arithmetic", weight=1.0), sources))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_full_rank_factors_of_one_expert_make_its_delta() -> None:
    """The back-end's own identity, which the operator does not need to ask for."""
    base = torch.zeros(24, 40)
    delta = noise(24, 40)
    found = singular_factors(ExpertTensor(name="x", hash="x", value=delta), base, 24)
    assert torch.allclose(polar(found.left_MR) * found.values_R @ polar(found.right_NR).T, delta, atol=1e-5)


def test_orthogonal_experts_add_up() -> None:
    """Experts in subspaces of their own do not disturb each other: TSV-M is task arithmetic."""
    base, one, other = noise(40, 40, seed=9), torch.zeros(40, 40), torch.zeros(40, 40)
    one[:20, :20], other[20:, 20:] = noise(20, 20), noise(20, 20, seed=1)
    fast, _ = merged(base, {"one": base + one, "other": base + other}, weight={"one": 0.5, "other": -0.8})
    assert torch.allclose(fast, base + 0.5 * one - 0.8 * other, atol=1e-5)


def test_adapters_merge_within_their_stacked_rank() -> None:
    experts = {"p": adapter(60, 50, 4, seed=0), "q": adapter(60, 50, 6, seed=2)}
    base = torch.zeros(60, 50)
    fast, expected = merged(base, experts, weight=0.7)
    assert int((torch.linalg.svdvals(fast) > 1e-5 * fast.norm()).sum()) == 10
    assert torch.allclose(fast.double(), expected, atol=1e-5)


def test_rank_is_an_even_share_of_the_shorter_side() -> None:
    base = torch.zeros(12, 90)
    experts = {name: noise(12, 90, seed=seed) for seed, name in enumerate("abc")}
    for share, rank in [(1.0, 12), (0.5, 6), (0.01, 3)]:
        fast, expected = merged(base, experts, weight=1.0, rank=share)
        assert int((torch.linalg.svdvals(fast) > 1e-4).sum()) == rank
        assert torch.allclose(fast.double(), expected, atol=1e-4)


def test_more_experts_than_rows() -> None:
    base = torch.zeros(2, 9)
    fast, expected = merged(base, {name: noise(2, 9, seed=seed) for seed, name in enumerate("abc")}, weight=0.6)
    assert torch.allclose(fast.double(), expected, atol=1e-5)


@pytest.mark.parametrize("params", [{"weight": 0.0}, {"weight": 0.8, "scale": 0.0}])
def test_no_weight_is_the_base(sources: Sources, params: dict) -> None:
    none = dict(materialize(recipe_of(sources, "tsv_m", **params), sources))
    assert all(torch.equal(tensor, sources.base.tensor(name)) for name, tensor in none.items())


def test_a_weight_may_pass_through_zero(sources: Sources) -> None:
    merges = [
        dict(materialize(recipe_of(sources, "tsv_m", dtype="float32", weight={"a": 0.7, "b": b}), sources))[UP]
        for b in (-1e-6, 0.0, 1e-6)
    ]
    assert torch.allclose(merges[0], merges[1], atol=1e-6)
    assert torch.allclose(merges[1], merges[2], atol=1e-6)


def test_a_zero_delta_and_dependent_columns_are_no_directions() -> None:
    base = torch.zeros(10, 8)
    rank_one = noise(10, 1) @ noise(1, 8, seed=1)
    nothing = LowRank(a_RN=torch.zeros(2, 8), b_MR=noise(10, 2), scale=1.0)
    fast, expected = merged(base, {"one": rank_one, "nothing": nothing}, weight=1.0)
    assert torch.allclose(fast, rank_one, atol=1e-5)
    assert torch.allclose(fast.double(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "name"),
    [((300,), "model.norm.weight"), ((20, 8), "model.embed_tokens.weight"), ((20, 8), "lm_head.weight")],
)
def test_what_is_no_projection_gets_the_mean_of_the_weighted_deltas(shape: tuple[int, ...], name: str) -> None:
    base, one, other = noise(3, *shape)
    fast, expected = merged(
        base, {"one": one, "other": other}, name=name, weight={"one": 0.8, "other": -0.2}, scale=1.5
    )
    assert torch.allclose(fast, base + 1.5 * (0.8 * (one - base) - 0.2 * (other - base)) / 2, atol=1e-5)
    assert torch.allclose(fast.double(), expected, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("shape", [(5000,), (50, 100)])
def test_nan_and_inf_never_vanish(value: float, shape: tuple[int, ...]) -> None:
    base, good, bad = noise(3, *shape)
    bad.view(-1)[[3, 7]] = value
    inputs = inputs_of_tensors(base, {"good": good, "bad": bad})
    program = ARITHMETIC["tsv_m"](inputs, Rule(match=".*", operator="tsv_m", params={"weight": 0.3}))
    with pytest.raises(InvalidWeights, match="NaN or Inf"):
        execute(program, base, torch.bfloat16)
