"""Rank components of the experts' deltas, each with a coefficient of its own.

An adapter's components are its ranks: c1 b1 a1^T + ... is an adapter of the same rank, so a merge of adapters stays
one. Those of a full checkpoint are the largest singular ones, found once (`prepared.singular_factors`).

Shapes: M rows, N columns, R components.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import torch

from crossbreed.kernels.linalg.decompositions import Factors
from crossbreed.kernels.prepared.singular_factors import singular_factors_of
from crossbreed.kernels.programs import Affine, Share
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs, as_matrix
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.recipes.operators.components import check_components
from crossbreed.sources import LowRank
from crossbreed.types import Rule


def rank_components(inputs: TensorInputs, rule: Rule) -> Affine:
    """The base, weighted deltas, and components of deltas with coefficients."""
    spec = OPERATOR_SPECS[rule.operator]
    weights, numbers = spec.per_source(rule, "weight", inputs.expert_names), spec.numbers(rule, "components")
    by_hash: dict[str, list[ExpertTensor]] = {}
    for expert in inputs.experts:
        by_hash.setdefault(expert.hash, []).append(expert)
    shares = list[Share]()
    for copies in by_hash.values():
        weight = math.fsum(weights[expert.name] for expert in copies)
        columns = zip_longest(*(numbers.get(expert.name, ()) for expert in copies), fillvalue=0.0)
        shares += _shares(inputs, copies[0], weight, [math.fsum(column) for column in columns])
    return Affine(shares=tuple(shares))


def check(inputs: TensorInputs, rule: Rule) -> None:
    """Refuses more coefficients than there are components.

    Raises:
        InputError: naming the tensor and the expert.
    """
    numbers = OPERATOR_SPECS[rule.operator].numbers(rule, "components")
    given = {name: len(of_expert) for name, of_expert in numbers.items()}
    held = {expert.name: _num_components(expert, inputs.base) for expert in inputs.experts}
    check_components(inputs.name, given, held)


def _num_components(expert: ExpertTensor, base: torch.Tensor) -> int:
    return len(expert.value.a_RN) if isinstance(expert.value, LowRank) else min(as_matrix(base).shape)


def _shares(inputs: TensorInputs, expert: ExpertTensor, weight: float, numbers: Sequence[float]) -> list[Share]:
    if not any(numbers):
        return [(weight, expert)]
    if isinstance(expert.value, LowRank):
        low = expert.value
        of_all = [weight + number for number in (*numbers, *[0.0] * len(low.a_RN))][: len(low.a_RN)]
        of_all_R = torch.tensor(of_all, device=low.b_MR.device)
        return [(1.0, replace(expert, value=replace(low, b_MR=low.b_MR.float() * of_all_R)))]
    value = low_rank_of(singular_factors_of(inputs, expert, len(numbers)), numbers)
    return [(weight, expert), (1.0, replace(expert, value=value))]


def low_rank_of(factors: Factors, numbers: Sequence[float]) -> LowRank:
    """Returns singular components, weighted, as factors; a delta may have fewer than there are numbers."""
    values_R = factors.values_R * torch.tensor(numbers[: len(factors.values_R)], device=factors.values_R.device)
    return LowRank(a_RN=factors.right_NR.T.contiguous(), b_MR=factors.left_MR * values_R, scale=1.0)
