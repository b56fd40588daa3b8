"""Operators that are one number per source and tensor: sum(cj Tj) over full tensors, plus c s B A for adapters.

Task arithmetic, W0 + scale sum(wi (Wi - W0)), is computed as (1 - sum(ci)) W0 + sum(ci Wi) with ci = scale wi: no
delta is ever formed, an endpoint (a lone ci = 1) is the expert bit for bit, and no weight at all is the base.
All adapters enter by one matrix product, [c1 s1 B1 ... cn sn Bn] [A1; ...; An], accumulated in fp32 on the rest.
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
    changed = {parent.name for parent in parents.experts}
    base = math.fsum(weight for name, weight in weights.items() if name not in changed) / divisor
    return combine(parents.base, math.fsum([base, *(c for c, p in shares if p.is_adapter)]), shares, dtype)


def task_arithmetic(parents: Parents, rule: Rule, dtype: torch.dtype) -> torch.Tensor:
    """The base plus scaled deltas of the experts."""
    spec = OPERATOR_SPECS["task_arithmetic"]
    weights = spec.per_source(rule, "weight", parents.expert_names)
    return add_deltas(parents.base, without_copies(parents.experts, weights), spec.scalar(rule, "scale"), dtype)


def add_deltas(base: torch.Tensor, weights: Shares, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Returns W0 + scale sum(wi di), rounded once to `dtype`."""
    shares = [(scale * weight, parent) for weight, parent in weights]
    return combine(base, math.fsum([1.0, *(-c for c, p in shares if not p.is_adapter)]), shares, dtype)


def without_copies(experts: Sequence[Parent], weights: Mapping[str, float]) -> Shares:
    """Returns each content hash once with its weights summed: giving an expert two names changes no bit."""
    by_hash: dict[str, list[Parent]] = {}
    for parent in experts:
        by_hash.setdefault(parent.hash, []).append(parent)
    return [(math.fsum(weights[parent.name] for parent in copies), copies[0]) for copies in by_hash.values()]


def combine(base: torch.Tensor, of_base: float, shares: Shares, dtype: torch.dtype) -> torch.Tensor:
    """Returns of_base W0 + sum(ci Ti), where Ti is a full expert's tensor or an adapter's s B A, rounded once."""
    adapters = [(c, parent.value) for c, parent in shares if isinstance(parent.value, LowRank) and c != 0]
    full = [(c, parent.value) for c, parent in shares if isinstance(parent.value, torch.Tensor)]
    terms = [(c, tensor) for c, tensor in [(of_base, base), *full] if c != 0]
    if not adapters and len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1].to(dtype)
    merged = torch.empty(base.shape, dtype=dtype)
    _write_sum(merged, [(c, as_matrix(tensor)) for c, tensor in terms], adapters)
    return merged


def _write_sum(
    merged: torch.Tensor, terms: Sequence[tuple[float, torch.Tensor]], adapters: Sequence[tuple[float, LowRank]]
) -> None:
    merged_MN = as_matrix(merged)
    if adapters:
        b_MR = torch.cat([c * low.scale * low.b_MR for c, low in adapters], dim=1)
        a_RN = torch.cat([low.a_RN for _, low in adapters])
    for rows in row_blocks(merged_MN):
        total_KN = torch.zeros_like(merged_MN[rows], dtype=torch.float32)
        for c, term_MN in terms:
            total_KN.add_(term_MN[rows].float(), alpha=c)
        if adapters:
            total_KN.addmm_(b_MR[rows], a_RN)
        merged_MN[rows] = total_KN
