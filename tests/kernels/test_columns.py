"""Coefficients by columns and by scores: what they are made from, and what they make."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merges import inputs_of_tensors, merged, term_ulps

from crossbreed.errors import InvalidWeights
from crossbreed.sources import LowRank
from crossbreed.types import Rule

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
generator = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


BASE = normal(24, 40)
EXPERTS: Mapping[str, torch.Tensor | LowRank] = {
    "a": BASE + 0.01 * normal(24, 40),
    "b": BASE + normal(24, 40) * (torch.arange(40) > 7),  # leaves some columns alone
    "p": LowRank(a_RN=normal(4, 40), b_MR=normal(24, 4), scale=0.1),
    "q": LowRank(a_RN=normal(3, 40), b_MR=normal(24, 3), scale=0.2),
}
FULL = {"a": EXPERTS["a"], "b": EXPERTS["b"]}
NEEDED: Mapping[str, dict[str, Any]] = {
    "widen": {},
    "do_decouple": {"weight": 0.5, "magnitude": 0.5},
    "metrics_weighted": {"metric": 0.5},
    "passthrough": {"source": "a"},
}
quick = settings(max_examples=25, deadline=None)
weights = st.fixed_dictionaries(dict.fromkeys(EXPERTS, st.floats(-1.0, 1.5)))
positive = st.fixed_dictionaries(dict.fromkeys(EXPERTS, st.floats(0.0, 1.5)))
names = st.sampled_from(["model.layers.0.mlp.up_proj.weight", EMBEDDING, HEAD])


def rule_of(operator: str, **params: Any) -> Rule:
    return Rule(match=".*", operator=operator, params={**NEEDED[operator], **params})


@quick
@given(t=st.floats(0.0, 3.0), s=st.floats(-1.0, 2.0), name=names, unmoved=st.booleans())
def test_widen_is_fp64_s(t: float, s: float, name: str, unmoved: bool) -> None:
    inputs = inputs_of_tensors(BASE, EXPERTS, name=name)
    if unmoved:
        inputs = replace(inputs, expert_names=(*inputs.expert_names, "z"))
    assert term_ulps(inputs, rule_of("widen", t=t, s=s)) <= 8


@quick
@given(weight=weights, magnitude=positive, scale=st.floats(0.1, 2.0), name=names)
def test_do_decouple_is_fp64_s(weight: dict[str, float], magnitude: dict[str, float], scale: float, name: str) -> None:
    inputs = inputs_of_tensors(BASE, EXPERTS, name=name)
    assert term_ulps(inputs, rule_of("do_decouple", weight=weight, magnitude=magnitude, scale=scale)) <= 8


@quick
@given(metric=positive, penalty=st.floats(0.0, 20.0))
def test_metrics_weighted_is_fp64_s(metric: dict[str, float], penalty: float) -> None:
    metric |= {"a": max(metric["a"], 0.1)}
    inputs = inputs_of_tensors(BASE, EXPERTS)
    assert term_ulps(inputs, rule_of("metrics_weighted", metric=metric, penalty=penalty)) <= 8


@pytest.mark.parametrize("source", [*EXPERTS, "base"])
def test_passthrough_is_fp64_s(source: str) -> None:
    assert term_ulps(inputs_of_tensors(BASE, EXPERTS), rule_of("passthrough", source=source, scale=0.7)) <= 8


@pytest.mark.parametrize("operator", NEEDED)
def test_vectors_are_merged_too(operator: str) -> None:
    experts = {"a": BASE[0] + normal(40), "b": BASE[0] + 0.1 * normal(40)}
    assert term_ulps(inputs_of_tensors(BASE[0], experts, name=NORM), rule_of(operator)) <= 8


@pytest.mark.parametrize("operator", NEEDED)
def test_permuting_experts_changes_no_bit(operator: str) -> None:
    values, numbers, seen = list(EXPERTS.values()), (0.31, 0.9, 0.55, 0.2), []
    for called in list(permutations("abcd"))[::5]:
        inputs = inputs_of_tensors(BASE, dict(zip(called, values, strict=True)))
        hashes = {name: str(i) for i, name in enumerate(called)}
        experts = sorted((replace(e, hash=hashes[e.name]) for e in inputs.experts), key=lambda e: e.hash)
        given_ = {key: dict(zip(called, numbers, strict=True)) for key in ("weight", "magnitude", "metric")}
        params = {key: value for key, value in given_.items() if key in NEEDED[operator]}
        if operator == "passthrough":
            params = {"source": called[1]}
        seen.append(merged(replace(inputs, experts=tuple(experts)), rule_of(operator, **params)))
    assert all(torch.equal(seen[0], other) for other in seen[1:])


@pytest.mark.parametrize("operator", NEEDED)
def test_nothing_moved_is_the_base_s_own_memory(operator: str) -> None:
    base = BASE.bfloat16()
    inputs = replace(inputs_of_tensors(base, {}), expert_names=("a", "z"))
    assert merged(inputs, rule_of(operator), torch.bfloat16) is base


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", EMBEDDING, HEAD])
@pytest.mark.parametrize("operator", NEEDED)
def test_nan_and_inf_reach_the_merge(operator: str, name: str, bad: float) -> None:
    broken = EXPERTS["a"].clone()
    broken[3, 5] = bad
    inputs = inputs_of_tensors(BASE, {"a": broken, "b": EXPERTS["b"]}, name=name)
    scale = {"scale": 0.5} if operator == "passthrough" else {}
    with pytest.raises(InvalidWeights, match="NaN or Inf"):
        merged(inputs, rule_of(operator, **scale))


def test_what_widen_finds_important_gets_s_and_the_rest_is_shared_out() -> None:
    """Each of two experts turns and lengthens two columns, which half and three quarters of its columns do less."""
    base, turn = torch.tensor([[1.0] * 4, [0.0] * 4]), torch.tensor([[0.0] * 4, [1.0] * 4])
    first, second = turn * torch.tensor([1.0, 2.0, 0.0, 0.0]), turn * torch.tensor([0.0, 0.0, 1.0, 2.0])
    inputs = inputs_of_tensors(base, {"a": base + first, "b": base + second})
    out = merged(inputs, rule_of("widen", t=1.0, s=0.25)) - base
    assert torch.allclose(out, 0.25 * (first + second))
    out = merged(inputs, rule_of("widen", t=2.0, s=0.25)) - base  # twice the mean rank is 0.625
    shared = math.exp(0.5) / (math.exp(0.5) + math.exp(0.0))
    assert torch.allclose(out[1], torch.tensor([shared, 0.5, shared, 0.5]))


def test_widen_counts_tokens_in_an_input_embedding_alone() -> None:
    """Deltas that fill one row are one token's: there all of it has one coefficient, and it is important."""
    delta = torch.zeros(4, 6)
    delta[2] = torch.arange(1.0, 7.0)
    inputs = inputs_of_tensors(torch.ones(4, 6), {"a": 1 + delta, "b": 1 + delta.flip(1)}, name=EMBEDDING)
    out = merged(inputs, rule_of("widen", s=0.5)) - 1
    assert torch.allclose(out, 0.5 * (delta + delta.flip(1)))
    as_head = merged(replace(inputs, name=HEAD), rule_of("widen", s=0.5)) - 1
    assert not torch.allclose(as_head, out)


def test_one_expert_decoupled_is_that_expert() -> None:
    inputs = inputs_of_tensors(BASE, {"b": EXPERTS["b"]})
    out = merged(inputs, rule_of("do_decouple", weight=1.0, magnitude=1.0))
    assert torch.allclose(out, EXPERTS["b"], rtol=0, atol=1e-6)


def test_lengths_and_directions_are_merged_apart() -> None:
    """Columns at right angles, of lengths 1 and 3: the mean length times the mean of the directions."""
    base, first, second = torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [3.0]])
    inputs = inputs_of_tensors(base, {"a": first, "b": second})
    assert torch.allclose(merged(inputs, rule_of("do_decouple")), torch.tensor([[1.0], [1.0]]))
    scaled = rule_of("do_decouple", weight=1.0, magnitude=1.0, scale=0.25)  # 1 / N^2: the same means
    assert torch.equal(merged(inputs, scaled), merged(inputs, rule_of("do_decouple")))


def test_outside_of_projections_the_means_are_means() -> None:
    inputs = inputs_of_tensors(BASE, FULL, name=EMBEDDING)
    mean = Rule(match=".*", operator="task_arithmetic", params={"weight": 0.5})
    for params in ({}, {"weight": 1.0, "magnitude": 1.0, "scale": 0.25}):
        assert torch.allclose(merged(inputs, rule_of("do_decouple", **params)), merged(inputs, mean))


def test_a_penalty_sharpens_from_the_mean_to_the_best() -> None:
    inputs, metric = inputs_of_tensors(BASE, FULL), {"a": 0.4, "b": 0.8}
    mean = Rule(match=".*", operator="task_arithmetic", params={"weight": 0.5})
    uniform = merged(inputs, rule_of("metrics_weighted", metric=metric, penalty=0.0))
    assert torch.equal(uniform, merged(inputs, mean))
    sharp = merged(inputs, rule_of("metrics_weighted", metric=metric, penalty=20.0))
    assert torch.allclose(sharp, EXPERTS["b"], atol=1e-4)
    huge = merged(inputs, rule_of("metrics_weighted", metric={"a": 0.0, "b": 1e300}, penalty=20.0))
    assert huge is EXPERTS["b"]


def test_scores_of_nothing_are_refused() -> None:
    with pytest.raises(InvalidWeights, match="nothing to weight by"):
        merged(inputs_of_tensors(BASE, FULL), rule_of("metrics_weighted", metric=0.0))


def test_passthrough_is_the_source_s_own_memory() -> None:
    inputs = inputs_of_tensors(BASE, FULL)
    assert merged(inputs, rule_of("passthrough", source="a")) is EXPERTS["a"]
    assert merged(inputs, rule_of("passthrough", source="base")) is BASE
    assert torch.equal(merged(inputs, rule_of("passthrough", source="a", scale=0.0)), torch.zeros(24, 40))
