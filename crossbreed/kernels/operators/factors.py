"""Factors of LoRA adapters, added each for itself: the merge is an adapter of the same rank.

Sums are taken in fp64, in the order of content hashes, and rounded once: neither names nor positions change a bit.

Shapes: M rows, N columns, R rank.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce

import torch

from crossbreed.errors import InputError
from crossbreed.kernels.programs import Affine
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.recipes.operators.factors import check_factors
from crossbreed.sources import LowRank
from crossbreed.types import Rule


def lora_factors(inputs: TensorInputs, rule: Rule) -> Affine:
    """The base plus (sum wi si Bi)(sum wi ti Ai), which is not the sum of the wi si Bi Ai."""
    spec = OPERATOR_SPECS[rule.operator]
    weights, densities = (spec.per_source(rule, name, inputs.expert_names) for name in ("weight", "density"))
    experts = [expert for expert in inputs.experts if weights[expert.name]]
    if not experts:
        return Affine(shares=())
    first = _trained(experts[0])
    whole = dict.fromkeys(densities, 1.0)

    def scaled_b(expert: ExpertTensor, density: float) -> torch.Tensor:
        return _trained(expert).b_MR.double() * (_trained(expert).scale / first.scale)

    mixed = LowRank(
        a_RN=_sum(experts, weights, densities, lambda expert, density: _largest_of_a(inputs, expert, density)),
        b_MR=_sum(experts, weights, whole, scaled_b),
        scale=first.scale,
    )
    value = mixed.turned if _low(experts[0]).transposed else mixed
    return Affine(shares=((1.0, replace(experts[0], value=value)),))


def check(inputs: TensorInputs, rule: Rule) -> None:
    """Refuses full checkpoints, adapters of several ranks, and an embedding that is an adapted head to some of them.

    Raises:
        InputError: naming the tensor and the experts.
    """
    lows = {expert.name: expert.value for expert in inputs.experts}
    check_factors(
        rule.operator,
        inputs.name,
        {name: len(low.a_RN) if isinstance(low, LowRank) else None for name, low in lows.items()},
    )
    turned = {name: low.transposed for name, low in lows.items() if isinstance(low, LowRank)}
    if len(set(turned.values())) > 1:
        raise InputError(
            f"`{rule.operator}` cannot add factors of an embedding and of the head that is tied to it",
            expected="adapters of the one or of the other",
            got=", ".join(f"`{name}` adapts the {'embedding' if is_it else 'head'}" for name, is_it in turned.items()),
            where=f"`{inputs.name}`",
            fix="use adapters of the same modules, or an operator on deltas, such as `task_arithmetic`",
        )


def _low(expert: ExpertTensor) -> LowRank:
    assert isinstance(expert.value, LowRank), "`check` refuses full checkpoints"
    return expert.value


def _trained(expert: ExpertTensor) -> LowRank:
    """The factors as the adapter has them, however the base stores the matrix."""
    low = _low(expert)
    return low.turned if low.transposed else low


def _sum(
    experts: Sequence[ExpertTensor],
    weights: Mapping[str, float],
    densities: Mapping[str, float],
    factor: Callable[[ExpertTensor, float], torch.Tensor],
) -> torch.Tensor:
    """Returns the weighted sum of a factor in fp32; an adapter under two names is one with the sum of their weights."""
    copies: dict[tuple[str, float], list[ExpertTensor]] = {}
    for expert in experts:
        copies.setdefault((expert.hash, densities[expert.name]), []).append(expert)
    terms = [
        math.fsum(weights[expert.name] for expert in same) * factor(same[0], density)
        for (_, density), same in sorted(copies.items(), key=lambda item: item[0])
    ]
    return reduce(torch.add, terms).float()


def _largest_of_a(inputs: TensorInputs, expert: ExpertTensor, density: float) -> torch.Tensor:
    """Returns A in fp64 with only int(density n) elements: of equal magnitudes those that come first stay."""
    a_RN = _trained(expert).a_RN
    if density >= 1:
        return a_RN.double()
    places_RN = inputs.cached_for(expert, "places in A", lambda: _places(a_RN))
    return a_RN.double() * (places_RN < int(density * a_RN.numel()))


def _places(a_RN: torch.Tensor) -> torch.Tensor:
    """Returns int32: where each magnitude stands, from 0 (the largest); NaN is larger than anything."""
    order = a_RN.abs().reshape(-1).argsort(descending=True, stable=True)
    places = torch.empty(len(order), dtype=torch.int32, device=a_RN.device)
    places[order] = torch.arange(len(order), dtype=torch.int32, device=a_RN.device)
    return places.view(a_RN.shape)
