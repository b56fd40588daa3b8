"""What selects elements: against fp64, against its own algebra, and nothing lost on the way."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from merges import UP, inputs_of_tensors, opened, recipe_of

from crossbreed.errors import InputError, InvalidWeights
from crossbreed.kernels import ARITHMETIC, SourceCache, materialize
from crossbreed.kernels.executors import execute
from crossbreed.kernels.linalg.order_statistics import values_of_ranks
from crossbreed.kernels.reference import REFERENCES, materialize_fp64
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.kernels.tensors import TensorInputs
from crossbreed.recipes import parse_recipe
from crossbreed.recipes.operators import OPERATOR_SPECS, pcb, selection
from crossbreed.sources import LowRank, Sources
from crossbreed.types import Recipe, Rule

T = TypeVar("T")

EXPERTS = ("a", "b", "mlp", "p", "q")
quick = settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
weights = st.fixed_dictionaries(dict.fromkeys(EXPERTS, st.floats(-1.5, 1.5).map(lambda w: round(w, 4))))
lambdas = st.fixed_dictionaries(dict.fromkeys(EXPERTS, st.floats(0.1, 1.0)))
OF_MANY: Mapping[str, st.SearchStrategy[dict[str, Any]]] = {
    "sce": st.fixed_dictionaries({"select_topk": st.floats(0.01, 1.0)}),
    "ram": st.fixed_dictionaries({"epsilon": st.floats(1e-6, 0.1)}),
    "ramplus": st.fixed_dictionaries(
        {"epsilon": st.floats(1e-6, 0.1), "r": st.floats(0.0, 2.0), "alpha": st.floats(0.0, 2.0)}
    ),
    "pcb": st.fixed_dictionaries(
        {"weight": weights, "ratio": st.floats(0.02, 1.0), "scope": st.sampled_from(["tensor", "model"])}
    ),
    "consensus": st.fixed_dictionaries(
        {"weight": weights, "tall_lambda": lambdas, "k": st.integers(0, 6), "scale": st.floats(0.1, 2.0)}
    ),
}
OF_ONE: Mapping[str, st.SearchStrategy[dict[str, Any]]] = {
    "arcee_fusion": st.fixed_dictionaries({"threshold": st.floats(0.0, 3.0), "scale": st.floats(0.1, 2.0)}),
    "nearswap": st.fixed_dictionaries({"t": st.floats(0.0, 0.1)}),
}
USUAL: Mapping[str, dict[str, Any]] = {
    "sce": {"select_topk": 0.5},
    "ram": {},
    "ramplus": {"r": 0.5},
    "pcb": {"weight": 0.9, "ratio": 0.2},
    "consensus": {"weight": 0.4},
    "arcee_fusion": {},
    "nearswap": {"t": 0.01},
}


def bits(recipe: Recipe, sources: Sources, cache: SourceCache | None = None) -> dict[str, bytes]:
    stream = materialize(recipe, sources, cache)
    return {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in stream}


def share_off(recipe: Recipe, sources: Sources) -> float:
    """How many of the elements are farther than 1e-6 from fp64; weights are near 1. Where PCB's shares are all near 0,
    the digits of their ratio cancel: there, 1e-5."""
    bound = 1e-5 if recipe.rules[0].operator == "pcb" else 1e-6
    merged, reference = dict(materialize(recipe, sources)), dict(materialize_fp64(recipe, sources))
    off = sum(int(((merged[name].double() - expected).abs() > bound).sum()) for name, expected in reference.items())
    return off / sum(tensor.numel() for tensor in reference.values())


def rule_of(operator: str, **params: Any) -> Rule:
    return Rule(match=".*", operator=operator, params={**USUAL[operator], **params})


def merged(operator: str, inputs: TensorInputs, **params: Any) -> torch.Tensor:
    return execute(ARITHMETIC[operator](inputs, rule_of(operator, **params)), inputs.base, torch.float32)


def in_fp64(operator: str, inputs: TensorInputs, **params: Any) -> torch.Tensor:
    return REFERENCES[operator](Tensor.of(inputs), rule_of(operator, **params))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_every_operator_of_the_family_is_tested() -> None:
    assert {part.spec.name for part in (*selection.PARTS, *pcb.PARTS)} == USUAL.keys() == OF_MANY.keys() | OF_ONE.keys()


@pytest.mark.parametrize("operator", OF_MANY)
@quick
@given(data=st.data())
def test_it_is_fp64_s_but_for_elements_at_a_threshold(sources: Sources, operator: str, data: st.DataObject) -> None:
    recipe = recipe_of(sources, operator, dtype="float32", **data.draw(OF_MANY[operator]))
    assert share_off(recipe, sources) <= 1e-3


@pytest.mark.parametrize("expert", ["a", "mlp", "p"])
@pytest.mark.parametrize("operator", OF_ONE)
@quick
@given(data=st.data())
def test_of_one_expert_it_is_fp64_s_too(
    models: dict[str, Path], operator: str, expert: str, data: st.DataObject
) -> None:
    alone = opened(models, {expert: expert})
    recipe = recipe_of(alone, operator, dtype="float32", **data.draw(OF_ONE[operator]))
    assert share_off(recipe, alone) <= 1e-3


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=40),
    topk=st.floats(0.01, 1.0),
    epsilon=st.sampled_from([0.125, 0.25, 0.5]),
)
def test_quarters_are_merged_exactly_ties_and_all(values: list[list[int]], topk: float, epsilon: float) -> None:
    deltas = torch.tensor(values, dtype=torch.float32).T / 4
    inputs = inputs_of_tensors(torch.zeros(len(values)), dict(zip("abcd", deltas, strict=True)))
    for operator, params in [
        ("sce", {"select_topk": topk}),
        ("ram", {"epsilon": epsilon}),
        ("ramplus", {"epsilon": epsilon, "r": 0.5, "alpha": 0.75}),
        ("consensus", {"weight": 0.5, "tall_lambda": 0.5}),
        ("consensus", {"weight": {"a": 1.0, "b": -1.0, "c": 0.5}, "tall_lambda": 0.25, "k": 3}),
    ]:
        exact = in_fp64(operator, inputs, **params)
        assert (merged(operator, inputs, **params) - exact).abs().max() <= 1e-6, operator


@pytest.mark.parametrize("shape", [(50,), (1, 50), (50, 1), (20, 30), (3, 20, 30)])
@pytest.mark.parametrize("operator", USUAL)
def test_tensors_of_all_shapes(operator: str, shape: tuple[int, ...]) -> None:
    names = "a" if operator in OF_ONE else "abc"
    experts = {name: noise(*shape) + 0.3 * noise(*shape, seed=seed) for seed, name in enumerate(names, 1)}
    inputs = inputs_of_tensors(noise(*shape), experts)
    result = merged(operator, inputs)
    assert result.shape == shape
    assert torch.allclose(result.double(), in_fp64(operator, inputs), rtol=0, atol=1e-6)
    if operator in ("sce", "pcb") and result.numel() > 1:
        assert not torch.equal(result, inputs.base)


@pytest.mark.parametrize("operator", OF_MANY)
def test_permuting_experts_with_their_parameters_changes_no_bit(models: dict[str, Path], operator: str) -> None:
    params = dict(USUAL[operator])
    if "weight" in params:
        params["weight"] = {"a": 0.31, "b": -0.17, "mlp": 0.9, "p": 0.55, "q": 0.23}
    if operator == "consensus":
        params["tall_lambda"] = {"a": 0.2, "b": 0.3, "mlp": 0.4, "p": 0.5, "q": 0.6}
    seen, cache = [], SourceCache()  # what is known of an expert is known of it under every name
    for names in list(permutations(EXPERTS))[::53]:
        called = dict(zip(EXPERTS, names, strict=True))
        sources = opened(models, {called[key]: key for key in reversed(names)})
        moved = {
            name: {called[key]: number for key, number in value.items()} if isinstance(value, dict) else value
            for name, value in params.items()
        }
        recipe = recipe_of(sources, operator, **moved)
        seen += [bits(recipe, sources), bits(recipe, sources, cache)]
    assert all(other == seen[0] for other in seen[1:])


class Sealed(SourceCache):
    """Once sealed, it finds nothing out."""

    is_sealed = False

    def get(self, key: tuple[Hashable, ...], find: Callable[[], T]) -> T:
        return super().get(key, lambda: pytest.fail(f"{key} is found again") if self.is_sealed else find())


@pytest.mark.parametrize(
    ("operator", "other"),
    [
        ("sce", {"lines_alpha": 0.5}),
        ("arcee_fusion", {"threshold": 0.7, "scale": 2.0}),
        ("ramplus", {"r": 0.2, "alpha": 0.1}),
        ("pcb", {"weight": 0.3, "scope": "tensor"}),
    ],
)
def test_a_candidate_with_other_coefficients_finds_nothing_out(operator: str, other: dict[str, Any]) -> None:
    experts = {name: noise(20, 30, seed=ord(name)) for name in ("a" if operator in OF_ONE else "abc")}
    inputs = replace(inputs_of_tensors(noise(20, 30), experts), cache=(cache := Sealed()))
    merged(operator, inputs, **({"scope": "tensor"} if operator == "pcb" else {}))
    cache.is_sealed = True
    merged(operator, inputs, **other)


def test_copies_of_an_expert_may_change_places(models: dict[str, Path]) -> None:
    copies = opened(models, {"x": "a", "y": "a", "z": "a", "b": "b"})
    for operator in ("pcb", "consensus"):
        one = recipe_of(copies, operator, weight={"x": 0.31, "y": -0.77, "z": 0.53, "b": 0.2})
        other = recipe_of(copies, operator, weight={"x": 0.53, "y": 0.31, "z": -0.77, "b": 0.2})
        assert bits(one, copies) == bits(other, copies)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("shape", [(5000,), (50, 100)])
@pytest.mark.parametrize("operator", USUAL)
def test_nan_and_inf_never_vanish(operator: str, value: float, shape: tuple[int, ...]) -> None:
    base, bad, good = noise(*shape), noise(*shape, seed=1), noise(*shape, seed=2)
    bad.view(-1)[[3, 7]] = value
    inputs = inputs_of_tensors(base, {"bad": bad} if operator in OF_ONE else {"bad": bad, "good": good})
    with pytest.raises(InvalidWeights):
        merged(operator, inputs)


@pytest.mark.parametrize("operator", USUAL)
def test_what_no_expert_touches_is_the_base_s_own(models: dict[str, Path], operator: str) -> None:
    names = ("mlp",) if operator in OF_ONE else ("mlp", "p")
    sources = opened(models, {name: name for name in names})
    touched = set().union(*(sources.experts[name].touched for name in names))
    untouched = sources.base.tensors.keys() - touched
    assert untouched
    stream = dict(materialize(recipe_of(sources, operator, **USUAL[operator]), sources))
    assert all(torch.equal(stream[name], sources.base.tensor(name)) for name in untouched)
    assert any(not torch.equal(stream[name], sources.base.tensor(name)) for name in touched)


@pytest.mark.parametrize("operator", USUAL)
def test_an_expert_without_a_delta_is_the_base(operator: str) -> None:
    base = noise(20, 30)
    experts = {"same": base.clone()} if operator in OF_ONE else {"same": base.clone(), "too": base.clone()}
    assert torch.equal(merged(operator, inputs_of_tensors(base, experts)), base)


@pytest.mark.parametrize(
    ("operator", "params"),
    [
        ("nearswap", {"t": 0.0}),
        ("arcee_fusion", {"threshold": 1e9}),
        ("arcee_fusion", {"scale": 0.0}),
        ("ram", {"epsilon": 1e3}),
        ("pcb", {"weight": 0.0}),
        ("consensus", {"weight": 0.0}),
        ("consensus", {"weight": 0.5, "k": 2}),
        ("sce", {"select_topk": 0.9}),
    ],
)
def test_ends_at_which_one_expert_is_the_base(models: dict[str, Path], operator: str, params: dict) -> None:
    """Of one expert there is no variance to select by, and no second vote."""
    alone = opened(models, {"a": "a"})
    nothing = recipe_of(alone, "task_arithmetic", match="nothing", weight=1.0)
    assert bits(recipe_of(alone, operator, **params), alone) == bits(nothing, alone)


@pytest.mark.parametrize(
    ("operator", "params"),
    [
        ("nearswap", {"t": 1e3}),
        ("arcee_fusion", {"threshold": -1e9}),
        ("ram", {"epsilon": 1e-30}),
        ("ramplus", {"epsilon": 1e-30, "r": 5.0}),
        ("consensus", {"weight": 1.0, "k": 1}),
        ("sce", {}),
    ],
)
def test_ends_at_which_one_expert_is_itself(models: dict[str, Path], operator: str, params: dict) -> None:
    alone = opened(models, {"a": "a"})
    itself = recipe_of(alone, "task_arithmetic", weight=1.0)
    assert bits(recipe_of(alone, operator, **params), alone) == bits(itself, alone)


def test_sce_weighs_experts_alike_however_small_their_deltas() -> None:
    """No floor: mergekit's 1e-6 makes all experts equal where deltas are as small as fine-tuning leaves them."""
    large, small = noise(40, 50), 0.1 * noise(40, 50, seed=1)

    def delta(factor: float) -> torch.Tensor:
        inputs = inputs_of_tensors(torch.zeros(40, 50), {"large": large * factor, "small": small * factor})
        return merged("sce", inputs, select_topk=0.7)

    assert torch.equal(delta(2.0**-30), delta(1.0) * 2.0**-30)
    agree = (large.sign() == small.sign()) & (delta(1.0) != 0)
    assert (delta(1.0)[agree].abs() > 0.9 * large[agree].abs()).all()


def test_sce_selects_a_share_of_what_differs() -> None:
    shared = noise(1000)
    one, other = shared.clone(), shared.clone()
    one[:400] += noise(400, seed=1)
    result = merged("sce", inputs_of_tensors(torch.zeros(1000), {"one": one, "other": other}), select_topk=0.25)
    assert int((result != 0).sum()) == 100
    far = (one - other).abs()
    assert far[result != 0].min() >= far[result == 0].max()


def test_arcee_fusion_takes_the_outliers() -> None:
    base = noise(60, 80)
    changed = base + 1e-3 * noise(60, 80, seed=1)
    changed[:2, :40] += 1.0
    result = merged("arcee_fusion", inputs_of_tensors(base, {"a": changed}))
    taken = result != base
    assert taken[:2, :40].all()
    assert 0.02 < taken.float().mean() < 0.25
    assert torch.allclose(result[taken], changed[taken], atol=1e-6)


def test_nearswap_cuts_a_delta_to_t() -> None:
    base, other = noise(40, 50), noise(40, 50, seed=1)
    result = merged("nearswap", inputs_of_tensors(base, {"a": other}), t=0.3)
    assert torch.allclose(result - base, (other - base).clamp(-0.3, 0.3), atol=1e-6)


def test_ram_adds_what_is_disjoint_and_averages_what_is_not() -> None:
    deltas = torch.tensor([[2.0, 0.0, 4.0, 1.0], [0.0, 3.0, 2.0, 0.0], [0.0, 0.0, 6.0, -3.0]])
    inputs = inputs_of_tensors(torch.zeros(4), dict(zip("abc", deltas, strict=True)))
    assert merged("ram", inputs).tolist() == [2.0, 3.0, 4.0, -1.0]
    # shared / unique is 2 / 1, 1 / 1, and 2 / 0 where it multiplies nothing
    assert merged("ramplus", inputs, r=0.5, alpha=1.5).tolist() == [3.5, 4.5, 4.0, -1.0]
    assert torch.equal(merged("ramplus", inputs, r=0.0), merged("ram", inputs))


def test_pcb_keeps_the_ratio_that_wins() -> None:
    delta = noise(100, 100)
    result = merged("pcb", inputs_of_tensors(torch.zeros(100, 100), {"a": delta}), weight=1.0, ratio=0.2)
    kept = result != 0
    assert int(kept.sum()) == 1999  # all above the 2,000th, which counts for nothing
    assert delta[kept].abs().min() > delta[~kept].abs().max()
    clipped = delta.abs().flatten().sort().values[-2]  # the largest of 10,000
    assert torch.allclose(result[kept], delta[kept].clamp(-clipped, clipped), atol=1e-6)


def test_pcb_lets_elements_of_the_whole_model_compete(sources: Sources) -> None:
    one, other = (
        dict(materialize(recipe_of(sources, "pcb", weight=1.0, ratio=0.1, scope=scope), sources))
        for scope in ("tensor", "model")
    )
    assert not torch.equal(one[UP], other[UP])


def test_consensus_of_no_votes_is_task_arithmetic(models: dict[str, Path]) -> None:
    full, weight = opened(models, {"a": "a", "b": "b"}), {"a": 0.4, "b": -0.7}
    everything = recipe_of(full, "consensus", weight=weight, k=0)
    assert bits(everything, full) == bits(recipe_of(full, "task_arithmetic", weight=weight), full)
    too_many = recipe_of(full, "consensus", weight=weight, k=3)
    assert bits(too_many, full) == bits(recipe_of(full, "task_arithmetic", weight=0.0), full)


def test_an_expert_without_a_weight_has_no_vote(models: dict[str, Path]) -> None:
    two, three = opened(models, {"a": "a", "b": "b"}), opened(models, {"a": "a", "b": "b", "mlp": "mlp"})
    weight = {"a": 0.4, "b": 0.7}
    assert bits(recipe_of(two, "consensus", weight=weight), two) == bits(
        recipe_of(three, "consensus", weight=weight), three
    )


@pytest.mark.parametrize("operator", USUAL)
def test_an_adapter_is_its_fp32_checkpoint(models: dict[str, Path], operator: str) -> None:
    others = {} if operator in OF_ONE else {"b": "b"}
    low, dense = opened(models, {"x": "p", **others}), opened(models, {"x": "p_dense", **others})
    params = USUAL[operator]
    ours = dict(materialize(recipe_of(low, operator, dtype="float32", **params), low))
    theirs = dict(materialize(recipe_of(dense, operator, dtype="float32", **params), dense))
    off = sum(int(((ours[name] - theirs[name]).abs() > 1e-6).sum()) for name in ours)
    assert off <= 1e-4 * sum(tensor.numel() for tensor in ours.values())


@pytest.mark.parametrize("operator", USUAL)
def test_low_rank_tensors_are_merged_as_full_ones(operator: str) -> None:
    base, a_RN, b_MR = noise(40, 50), noise(4, 50, seed=1), noise(40, 4, seed=2)
    low = {"x": LowRank(a_RN=a_RN, b_MR=b_MR, scale=0.05)}
    others = {} if operator in OF_ONE else {"y": base + 0.2 * noise(40, 50, seed=3)}
    full = {"x": base + 0.05 * b_MR @ a_RN}
    ours, theirs = (merged(operator, inputs_of_tensors(base, {**x, **others})) for x in (low, full))
    assert ((ours - theirs).abs() > 1e-5).float().mean() <= 1e-3


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60),
    cut=st.integers(0, 59),
    ranks=st.tuples(st.integers(0, 59), st.integers(0, 59)),
)
def test_ranks_in_pieces_are_those_of_the_whole(values: list[float], cut: int, ranks: tuple[int, int]) -> None:
    whole = torch.tensor(values)
    low, high = (min(rank, len(values) - 1) for rank in ranks)

    def pieces() -> Iterator[tuple[int, torch.Tensor]]:
        for part in (whole[:cut], whole[cut:]):
            yield 0, part
            yield 1, -part

    ordered = whole.sort().values
    expected = [(ordered[low], ordered[high]), (-ordered[-1 - low], -ordered[-1 - high])]
    assert values_of_ranks(pieces, 2, lambda size: (low, high)) == expected


@pytest.mark.parametrize("operator", OF_ONE)
def test_two_experts_are_refused_where_one_is_merged(operator: str) -> None:
    recipe = {
        "schema": 1,
        "base": "base",
        "sources": {"base": "00", "a": "11", "b": "22"},
        "rules": [{"match": ".*", "operator": operator, "params": USUAL[operator]}],
    }
    with pytest.raises(InputError, match=r"expected: +1"):
        parse_recipe(recipe)
    assert OPERATOR_SPECS[operator].num_experts == (1, 1)
