"""Operators that are one number per source and tensor: W = c0 W0 + sum(ci di), with di = Wi - W0.

The deltas are summed first, in fp32, and the base is added last: a merge that falls exactly halfway between two numbers
of the recipe's dtype (averages of bfloat16 weights often do) is then rounded as exact arithmetic would round it. All
adapters enter by one matrix product, [c1 s1 B1 ... cn sn Bn] [A1; ...; An], accumulated on the rest.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.tensors import Parent, Parents, as_matrix, row_blocks
from crossbreed.operators import OPERATOR_SPECS
from crossbreed.sources import LowRank
from crossbreed.types import Rule

Shares: TypeAlias = Sequence[tuple[float, Parent]]


def linear(parents: Parents, rule: Rule, dtype: torch.dtype) -> torch.Tensor:
    """Weighted sum or average of the sources, the base among them. Raises InvalidWeights if the weights sum to 0."""
    spec = OPERATOR_SPECS["linear"]
    weights = spec.per_source(rule, "weight", (parents.base_name, *parents.expert_names))
    divisor = math.fsum(weights.values()) if spec.scalar(rule, "normalize") else 1.0
    if divisor == 0:
        raise InvalidWeights("the weights of `linear` sum to 0 and cannot be normalised")
    shares = [(weight / divisor, parent) for weight, parent in without_copies(parents.experts, weights)]
    return combine(parents.base, shares, dtype, of_base=math.fsum(weights.values()) / divisor)


def task_arithmetic(parents: Parents, rule: Rule, dtype: torch.dtype) -> torch.Tensor:
    """The base plus scaled deltas of the experts."""
    spec = OPERATOR_SPECS["task_arithmetic"]
    weights = spec.per_source(rule, "weight", parents.expert_names)
    scale = spec.scalar(rule, "scale")
    shares = [(scale * weight, parent) for weight, parent in without_copies(parents.experts, weights)]
    return combine(parents.base, shares, dtype)


def without_copies(experts: Sequence[Parent], weights: Mapping[str, float]) -> Shares:
    """Returns each content hash once with its weights summed: giving an expert two names changes no bit."""
    by_hash: dict[str, list[Parent]] = {}
    for parent in experts:
        by_hash.setdefault(parent.hash, []).append(parent)
    return [(math.fsum(weights[parent.name] for parent in copies), copies[0]) for copies in by_hash.values()]


def combine(base: torch.Tensor, shares: Shares, dtype: torch.dtype, *, of_base: float = 1.0) -> torch.Tensor:
    """Returns of_base W0 + sum(ci di), rounded once; the base or a full expert itself where that is what it is."""
    shares = [(c, parent) for c, parent in shares if c != 0]
    if of_base == 1 and not shares:
        return base.to(dtype)
    if of_base == 1 and len(shares) == 1:
        ((c, parent),) = shares
        if c == 1 and isinstance(parent.value, torch.Tensor):
            return parent.value.to(dtype)
    merged = torch.empty(base.shape, dtype=dtype)
    _write_sum(as_matrix(merged), as_matrix(base), shares, of_base)
    return merged


def _write_sum(merged_MN: torch.Tensor, base_MN: torch.Tensor, shares: Shares, of_base: float) -> None:
    full = [(c, parent) for c, parent in shares if isinstance(parent.value, torch.Tensor)]
    adapters = [(c, parent.value) for c, parent in shares if isinstance(parent.value, LowRank)]
    if adapters:
        b_MR = torch.cat([c * low.scale * low.b_MR for c, low in adapters], dim=1)
        a_RN = torch.cat([low.a_RN for _, low in adapters])
    for rows in row_blocks(merged_MN):
        base_KN = base_MN[rows].float()
        total_KN = torch.zeros_like(base_KN)
        for c, parent in full:
            total_KN.add_(parent.delta(base_KN, rows), alpha=c)
        if adapters:
            total_KN.addmm_(b_MR[rows], a_RN)
        merged_MN[rows] = total_KN.add_(base_KN, alpha=of_base)
