"""Paths on a sphere: coefficients from inner products make the point that turning the vectors themselves makes."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merges import inputs_of_tensors, merged, term_ulps

from crossbreed.errors import InvalidWeights
from crossbreed.kernels import tensors
from crossbreed.kernels.prepared.inner_products import Along, Of, inner_products_of
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.kernels.tensors import TensorInputs
from crossbreed.sources import LowRank
from crossbreed.types import Rule

generator = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


BASE = normal(24, 40)
NEAR, FAR = BASE + 0.01 * normal(24, 40), BASE + normal(24, 40)
P = LowRank(a_RN=normal(4, 40), b_MR=normal(24, 4), scale=0.1)
Q = LowRank(a_RN=normal(3, 40), b_MR=normal(24, 3), scale=0.2)
PAIRS: Mapping[str, Mapping[str, torch.Tensor | LowRank]] = {
    "full": {"a": NEAR, "b": FAR},
    "lora": {"p": P, "q": Q},
    "mixed": {"b": FAR, "p": P},
}
ALL: Mapping[str, torch.Tensor | LowRank] = {"a": NEAR, "b": FAR, "p": P, "q": Q}
OPERATORS = ["slerp", "nuslerp", "multislerp", "karcher", "model_stock"]
NEEDED: Mapping[str, dict[str, Any]] = {
    "slerp": {"t": 0.3},
    "nuslerp": {"weight": 0.5},
    "multislerp": {"weight": 0.5},
    "karcher": {},
    "model_stock": {},
}
quick = settings(max_examples=25, deadline=None)
shares = st.floats(0.05, 1.5)


def rule_of(operator: str, **params: Any) -> Rule:
    return Rule(match=".*", operator=operator, params={**NEEDED[operator], **params})


def of_all(operator: str, experts: Mapping[str, torch.Tensor | LowRank]) -> Mapping[str, torch.Tensor | LowRank]:
    """As many experts as the operator takes."""
    return dict(list(experts.items())[: {"slerp": 1, "nuslerp": 2}.get(operator, len(experts))])


def with_unmoved(inputs: TensorInputs, *names: str) -> TensorInputs:
    """Adds experts that leave the tensor as it is."""
    return replace(inputs, expert_names=(*inputs.expert_names, *names))


@quick
@given(t=st.floats(-0.2, 1.2), expert=st.sampled_from(sorted(ALL)))
def test_slerp_is_fp64_s(t: float, expert: str) -> None:
    inputs, rule = inputs_of_tensors(BASE, {expert: ALL[expert]}), rule_of("slerp", t=t)
    assert term_ulps(inputs, rule) <= 8


@quick
@given(
    pair=st.sampled_from(sorted(PAIRS)),
    weights=st.tuples(shares, shares),
    of=st.sampled_from(["deltas", "weights"]),
    along=st.sampled_from(["tensor", "rows", "columns"]),
)
def test_nuslerp_is_fp64_s(pair: str, weights: tuple[float, float], of: str, along: str) -> None:
    experts = PAIRS[pair]
    weight = dict(zip(experts, weights, strict=True))
    inputs, rule = inputs_of_tensors(BASE, experts), rule_of("nuslerp", weight=weight, of=of, along=along)
    assert term_ulps(inputs, rule) <= 8


@quick
@given(
    weight=st.fixed_dictionaries(dict.fromkeys(ALL, shares)),
    of=st.sampled_from(["deltas", "weights"]),
    normalize=st.booleans(),
    unmoved=st.booleans(),
)
def test_multislerp_is_fp64_s(weight: dict[str, float], of: str, normalize: bool, unmoved: bool) -> None:
    inputs = inputs_of_tensors(BASE, ALL)
    if unmoved:
        inputs, weight = with_unmoved(inputs, "z"), {**weight, "z": 0.3}
    assert term_ulps(inputs, rule_of("multislerp", weight=weight, of=of, normalize=normalize)) <= 8


@quick
@given(
    weight=st.fixed_dictionaries(dict.fromkeys([*ALL, "base"], shares)),
    of=st.sampled_from(["deltas", "weights"]),
    max_iter=st.integers(0, 12),
    unmoved=st.booleans(),
)
def test_karcher_is_fp64_s(weight: dict[str, float], of: str, max_iter: int, unmoved: bool) -> None:
    inputs = inputs_of_tensors(BASE, ALL)
    if unmoved:
        inputs = with_unmoved(inputs, "z")
    assert term_ulps(inputs, rule_of("karcher", weight=weight, of=of, max_iter=float(max_iter))) <= 8


@pytest.mark.parametrize("along", ["tensor", "rows"])
@pytest.mark.parametrize("unmoved", [(), ("z",)])
@pytest.mark.parametrize("experts", [*PAIRS.values(), ALL], ids=[*PAIRS, "all"])
def test_model_stock_is_fp64_s(
    experts: Mapping[str, torch.Tensor | LowRank], unmoved: tuple[str, ...], along: str
) -> None:
    inputs = with_unmoved(inputs_of_tensors(BASE, experts), *unmoved)
    assert term_ulps(inputs, rule_of("model_stock", along=along, scale=1.3)) <= 8


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_vector_is_one_direction_whatever_is_said_of_rows(operator: str) -> None:
    base, experts = BASE[0], {"a": FAR[0], "b": NEAR[0]}
    inputs = inputs_of_tensors(base, of_all(operator, experts), name="model.norm.weight")
    assert term_ulps(inputs, rule_of(operator)) <= 8
    if operator in ("nuslerp", "model_stock"):
        rows, whole = (merged(inputs, rule_of(operator, along=along)) for along in ("rows", "tensor"))
        assert torch.equal(rows, whole)


@pytest.mark.parametrize("operator", OPERATORS)
def test_nothing_moved_is_the_base_s_own_memory(operator: str) -> None:
    base = BASE.bfloat16()
    num_experts = {"slerp": 1}.get(operator, 2)
    inputs = with_unmoved(inputs_of_tensors(base, {}), *("yz"[:num_experts]))
    assert merged(inputs, rule_of(operator), torch.bfloat16) is base


@pytest.mark.parametrize("operator", [name for name in OPERATORS if name != "slerp"])
def test_permuting_experts_changes_no_bit(operator: str) -> None:
    weights = (0.31, 0.9, 0.55)
    values = (NEAR, FAR, P) if operator != "nuslerp" else (NEAR, FAR)
    seen = []
    for names in permutations("abc"[: len(values)]):
        inputs = inputs_of_tensors(BASE, dict(zip(names, values, strict=True)))
        # The hash is the content's: it stays with the value, and decides the order.
        hashes = {name: str(i) for i, name in enumerate(names)}
        experts = sorted((replace(e, hash=hashes[e.name]) for e in inputs.experts), key=lambda e: e.hash)
        weight = {} if operator == "model_stock" else {"weight": dict(zip(names, weights, strict=False))}
        seen.append(merged(replace(inputs, experts=tuple(experts)), rule_of(operator, **weight)))
    assert all(torch.equal(seen[0], other) for other in seen[1:])


@pytest.mark.parametrize("of", ["deltas", "weights"])
@pytest.mark.parametrize("operator", ["nuslerp", "multislerp", "karcher"])
def test_all_weight_on_one_full_expert_is_that_expert(operator: str, of: str) -> None:
    far = FAR.bfloat16()
    inputs = inputs_of_tensors(BASE.bfloat16(), {"a": NEAR.bfloat16(), "b": far})
    rule = rule_of(operator, weight={"a": 0.0, "b": 0.7, **({"base": 0.0} if operator == "karcher" else {})}, of=of)
    assert merged(inputs, rule, torch.bfloat16) is far


def test_slerp_ends_at_its_ends() -> None:
    base, far = BASE.bfloat16(), FAR.bfloat16()
    inputs = inputs_of_tensors(base, {"b": far})
    assert merged(inputs, rule_of("slerp", t=0.0), torch.bfloat16) is base
    assert merged(inputs, rule_of("slerp", t=1.0), torch.bfloat16) is far


def test_slerp_of_neighbours_is_a_straight_line() -> None:
    """As in mergekit: experts of one base are nearly always that close."""
    inputs = inputs_of_tensors(BASE, {"a": NEAR})
    line = Rule(match=".*", operator="task_arithmetic", params={"weight": 0.3})
    assert torch.equal(merged(inputs, rule_of("slerp", t=0.3)), merged(inputs, line))


@pytest.mark.parametrize("operator", ["nuslerp", "multislerp", "karcher"])
def test_directions_at_right_angles_are_turned_between(operator: str) -> None:
    """Half way between two deltas of length 2 at right angles lies one of length 2 (nuslerp: of their arc)."""
    base = torch.zeros(2, 4)
    first, second = torch.zeros(2, 4), torch.zeros(2, 4)
    first[0, 0], second[1, 2] = 2.0, 2.0
    inputs = inputs_of_tensors(base, {"a": first, "b": second})
    halfway = merged(inputs, rule_of(operator, weight=0.5, of="deltas"))
    assert torch.allclose(halfway, (first + second) / math.sqrt(2))


def test_karcher_lies_as_near_to_all_as_a_point_can() -> None:
    """Its defining property: the pulls towards the experts, as angles along the sphere, cancel."""
    inputs = inputs_of_tensors(torch.zeros(24, 40), {"a": FAR, "b": normal(24, 40), "c": NEAR})
    mean = merged(inputs, rule_of("karcher", of="deltas", max_iter=100.0, tol=1e-7)).double()
    mean = mean / torch.linalg.vector_norm(mean)
    pull = torch.zeros_like(mean)
    for expert in inputs.experts:
        unit = expert.value.double() / torch.linalg.vector_norm(expert.value.double())
        angle = torch.arccos((unit * mean).sum())
        pull += angle / angle.sin() * (unit - angle.cos() * mean)
    assert torch.linalg.vector_norm(pull) < 1e-6


def test_model_stock_trusts_experts_that_agree_and_leaves_those_that_do_not() -> None:
    delta = normal(24, 40)
    agreeing = inputs_of_tensors(BASE, {"a": BASE + delta, "b": BASE + 2 * delta})
    assert torch.allclose(merged(agreeing, rule_of("model_stock")), BASE + 1.5 * delta, atol=1e-5)
    opposing = inputs_of_tensors(torch.zeros(24, 40), {"a": delta, "b": -delta})
    assert torch.equal(merged(opposing, rule_of("model_stock")), torch.zeros(24, 40))


def test_opposite_directions_have_a_line_between_two_and_no_mean_among_more() -> None:
    zero, delta = torch.zeros(24, 40), normal(24, 40)
    two = inputs_of_tensors(zero, {"a": delta, "b": -3 * delta})
    assert torch.allclose(merged(two, rule_of("multislerp", weight=0.5)), -delta)
    with pytest.raises(InvalidWeights, match="cancel"):
        merged(two, rule_of("karcher", of="deltas"))
    three = inputs_of_tensors(zero, {"a": delta, "b": -3 * delta, "c": FAR})
    with pytest.raises(InvalidWeights, match="cancel"):
        merged(three, rule_of("multislerp", weight={"a": 1.0, "b": 1.0, "c": 1e-12}))


@pytest.mark.parametrize(
    ("operator", "weight"), [("multislerp", {"a": 0.5, "b": -0.5}), ("karcher", {"a": 0.0, "b": 0.0, "base": 0.0})]
)
def test_weights_that_sum_to_nothing_are_refused(operator: str, weight: dict[str, float]) -> None:
    inputs = inputs_of_tensors(BASE, {"a": NEAR, "b": FAR})
    with pytest.raises(InvalidWeights, match="sum to 0"):
        merged(inputs, rule_of(operator, weight=weight))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("operator", OPERATORS)
def test_nan_and_inf_reach_the_merge(operator: str, bad: float) -> None:
    broken = FAR.clone()
    broken[3, 5] = bad
    inputs = inputs_of_tensors(BASE, of_all(operator, {"a": broken, "b": NEAR}))
    with pytest.raises(InvalidWeights, match="NaN or Inf"):
        merged(inputs, rule_of(operator))


@pytest.mark.parametrize("along", list(Along))
@pytest.mark.parametrize("of", list(Of))
@pytest.mark.parametrize("pair", PAIRS)
def test_inner_products_are_those_of_the_vectors(
    pair: str, of: Of, along: Along, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "BLOCK", 200)
    inputs = inputs_of_tensors(BASE, PAIRS[pair])
    whole = Tensor.of(inputs)
    vectors = [whole.base if of is Of.WEIGHTS else torch.zeros_like(whole.base)]
    vectors += list((whole.experts if of is Of.WEIGHTS else whole.deltas).values())
    spelled = {Along.TENSOR: "vmn,wmn->vw", Along.ROWS: "vmn,wmn->mvw", Along.COLUMNS: "vmn,wmn->nvw"}[along]
    stacked = torch.stack(vectors)
    assert np.allclose(
        inner_products_of(inputs, of, along), torch.einsum(spelled, stacked, stacked).numpy(), rtol=1e-12, atol=1e-12
    )
