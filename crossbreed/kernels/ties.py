"""TIES (arXiv 2306.01708): keep each delta's largest elements, elect a sign per element, merge those that agree.

The conventions that decide exact results are mergekit's: trimming is per tensor and keeps max(1, int(density n))
elements; the vote is the sign of the sum of weighted, trimmed deltas; a sum of 0 elects plus; where nobody agrees the
divisor is 1. One is ours: of equal magnitudes at the threshold, those with the lowest flat index are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import hardshrink

from crossbreed.kernels.affine import combine
from crossbreed.kernels.tensors import Parent, Parents, as_matrix, row_blocks
from crossbreed.operators import OPERATOR_SPECS
from crossbreed.types import Rule

_SAMPLE, _MARGIN = 8192, 256


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a trimmed delta ends: keep what is larger than `magnitude`, and what equals it before flat index `end`."""

    magnitude: float
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Voter:
    parent: Parent
    weight: float
    density: float

    @property
    def order(self) -> tuple[str, float, float]:
        """Copies of one expert may differ in weight and density; where they do not, their order is no matter."""
        return self.parent.hash, self.weight, self.density


def ties(parents: Parents, rule: Rule, dtype: torch.dtype) -> torch.Tensor:
    """The base plus the scaled mean (or sum) of the trimmed deltas that agree with the elected sign."""
    spec = OPERATOR_SPECS["ties"]
    weights = spec.per_source(rule, "weight", parents.expert_names)
    densities = spec.per_source(rule, "density", parents.expert_names)
    scale, normalize = spec.scalar(rule, "scale"), bool(spec.scalar(rule, "normalize"))
    voters = [
        _Voter(parent=parent, weight=weights[parent.name], density=densities[parent.name])
        for parent in parents.experts
        if weights[parent.name] != 0 and scale != 0
    ]
    if not voters:
        return parents.base.to(dtype)
    if len(voters) == 1 and voters[0].density == 1:  # nobody to disagree with, nothing to trim
        return combine(parents.base, [(scale * (1.0 if normalize else voters[0].weight), voters[0].parent)], dtype)
    merged = torch.empty(parents.base.shape, dtype=dtype)
    _write_election(merged, parents.base, sorted(voters, key=attrgetter("order")), scale=scale, normalize=normalize)
    return merged


def _write_election(
    merged: torch.Tensor, base: torch.Tensor, voters: Sequence[_Voter], *, scale: float, normalize: bool
) -> None:
    merged_MN, base_MN = as_matrix(merged), as_matrix(base)
    cuts = [None if voter.density == 1 else find_cut(_delta(voter, base_MN), voter.density) for voter in voters]
    for rows in row_blocks(merged_MN):
        base_KN, first = base_MN[rows].float(), rows.start * merged_MN.shape[1]
        weighted = []
        for voter, cut in zip(voters, cuts, strict=True):
            delta_KN = voter.parent.delta(base_KN, rows)
            weighted.append(_trim(delta_KN, cut, first).mul_(voter.weight))
        sign_KN = torch.ones_like(weighted[0]).copysign_(_sum(weighted).add_(0.0))  # -0.0 + 0.0 is +0.0
        delta_KN, divisor_KN = torch.zeros_like(sign_KN), torch.zeros_like(sign_KN)
        for voter, ballot_KN in zip(voters, weighted, strict=True):
            agreeing_KN = ballot_KN.mul_(sign_KN).clamp_min_(0.0)  # NaN stays, and Inf wins its vote
            delta_KN.add_(agreeing_KN)
            divisor_KN.add_(agreeing_KN.sign_(), alpha=voter.weight)
        if normalize:
            delta_KN.div_(divisor_KN.add_(divisor_KN.clone().eq_(0.0)))  # where nobody agrees, by 1
        delta_KN.mul_(sign_KN)
        merged_MN[rows] = base_KN.add_(delta_KN, alpha=scale)


def find_cut(delta: torch.Tensor, density: float) -> Cut:
    """Returns the cut that keeps max(1, int(density n)) of a delta's n fp32 elements (n > 0, density < 1).

    Magnitudes are compared by their bits, which are ordered as the floats are (and NaN is the largest of all):
    integers are selected faster, and the count comes out right whatever they hold.
    """
    keep = max(1, int(density * delta.numel()))
    bits = delta.abs().reshape(-1).numpy().view(np.int32)
    magnitude = select(bits, len(bits) - keep)
    num_equal_kept = keep - np.count_nonzero(bits > magnitude)
    end = int(np.flatnonzero(bits == magnitude)[num_equal_kept - 1]) + 1
    return Cut(magnitude.view(np.float32).item(), end)


def select(values: NDArray[np.int32], rank: int) -> np.int32:
    """Returns the value that has `rank` in sorted order, exactly.

    A sample brackets it (by more than five standard deviations for values in any order), so that only one value in
    sixteen is partitioned; when the bracket misses, all are.
    """
    sample = np.sort(values[:: max(1, len(values) // _SAMPLE)])
    middle = rank * len(sample) // len(values)
    low = sample[middle - _MARGIN] if middle >= _MARGIN else sample[0]
    high = sample[middle + _MARGIN] if middle + _MARGIN < len(sample) else sample[-1]
    num_below, inside = int((values < low).sum()), values[(values >= low) & (values <= high)]
    if not num_below <= rank < num_below + len(inside):
        num_below, inside = 0, values
    return np.int32(np.partition(inside, rank - num_below)[rank - num_below])


def _delta(voter: _Voter, base_MN: torch.Tensor) -> torch.Tensor:
    """The whole delta, block by block as it will be computed again: bits, hence cuts, agree."""
    delta_MN = torch.empty(base_MN.shape)
    for rows in row_blocks(base_MN):
        delta_MN[rows] = voter.parent.delta(base_MN[rows].float(), rows)
    return delta_MN


def _trim(delta_KN: torch.Tensor, cut: Cut | None, first: int) -> torch.Tensor:
    """Zeroes in place what the cut drops of a block whose first element has flat index `first`."""
    if cut is None:
        return delta_KN
    flat, end = delta_KN.view(-1), max(0, cut.end - first)
    just_below = float(np.nextafter(np.float32(cut.magnitude), np.float32(0)))
    flat[:end] = hardshrink(flat[:end], just_below)  # zero up to and at the bound; NaN stays
    flat[end:] = hardshrink(flat[end:], cut.magnitude)
    return delta_KN


def _sum(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total
