"""What an operator declares of its parameters is so: a search that believed a wrong word would lose a dimension."""

from dataclasses import replace

import pytest
import torch
from merges import inputs_of_tensors

from crossbreed.kernels.linalg.walked import Walked
from crossbreed.kernels.reference import REFERENCES
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS, ParamKind
from crossbreed.search_spaces.layout import Layout
from crossbreed.sources import LowRank
from crossbreed.types import BASE, ParamValue, Rule

EXPERTS = ("a", "b", "c")


def merged_delta(operator: str, experts: tuple[str, ...], **params: ParamValue) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(12, 16, generator=generator)
    full = {  # each changes most elements, so that some are changed by one expert alone
        name: base + 0.3 * torch.randn(12, 16, generator=generator) * (torch.rand(12, 16, generator=generator) < 0.6)
        for name in experts
    }
    lows = {
        name: LowRank(a_RN=torch.randn(2, 16, generator=generator), b_MR=full[name][:, :2], scale=0.5) for name in full
    }
    inputs = inputs_of_tensors(base, lows if OPERATOR_SPECS[operator].mixes_factors else full)
    tensor = Tensor.of(inputs)
    if OPERATOR_SPECS[operator].reads_statistics:
        parts = (torch.randn(12, 16, generator=generator).double() for _ in range(3))
        tensor = replace(
            tensor, walked=Walked(torch.rand(16, generator=generator).double(), torch.eye(16).double(), *parts)
        )
    return REFERENCES[operator](tensor, Rule(match=".*", operator=operator, params=params)) - base


def settings_of(operator: str) -> tuple[tuple[str, ...], dict[str, ParamValue], dict[str, float]]:
    """Experts, parameters other than the weights, without normalisation, and weights of the experts and the base."""
    spec = OPERATOR_SPECS[operator]
    experts = EXPERTS[: spec.num_experts[1]]
    weights = dict(zip(experts, (0.7, 0.4, 0.5), strict=False))
    if (weight := spec.param("weight")) and weight.kind is ParamKind.SOURCE:
        weights[BASE] = 0.3
    params: dict[str, ParamValue] = {
        param.name: dict(zip(experts, (0.9, 0.5, 0.7), strict=False))
        for param in spec.params
        if param.required and param.kind is ParamKind.EXPERT and param.name != "weight"
    }
    return experts, params | ({"normalize": False} if spec.param("normalize") else {}), weights


@pytest.mark.parametrize("operator", [name for name, spec in OPERATOR_SPECS.items() if spec.is_weighted_sum])
def test_a_plain_operator_adds_its_deltas(operator: str) -> None:
    experts, _, weights = settings_of(operator)
    parts = {name: merged_delta(operator, experts, weight={name: 1.0}) for name in experts}
    shares = weights | ({BASE: 1 - sum(weights[name] for name in experts)} if BASE in weights else {})
    expected = sum((weights[name] * part for name, part in parts.items()), torch.zeros(12, 16, dtype=torch.float64))
    torch.testing.assert_close(merged_delta(operator, experts, weight=shares), expected)


@pytest.mark.parametrize("operator", OPERATOR_SPECS)
def test_whatever_is_searched_changes_what_is_merged(operator: str) -> None:
    """At one of a few places of the box at least: a coordinate that is dead costs a search as much as a live one."""
    experts, params, _ = settings_of(operator)
    told = {name: params.get(name, experts[0]) for name in Layout.of(operator, {}).missing}
    layout = Layout.of(operator, told)
    ranges = layout.ranges(experts)
    places = [{key: low + part * (high - low) for key, (low, high) in ranges.items()} for part in (0.3, 0.7, 0.9)]
    for key, ends in ranges.items():
        for place in places:
            low, high = (merged_delta(operator, experts, **layout.params(place | {key: end}, experts)) for end in ends)
            if not torch.equal(low, high):
                break
        else:
            pytest.fail(f"{key.name} of {key.owner or 'all'} changes nothing")
