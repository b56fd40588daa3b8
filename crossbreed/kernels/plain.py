"""The arithmetic of programs as torch functions on some rows, where nothing is compiled.

The compiled kernels are tested against it bit by bit, so products and sums are operations of their own here too.
"""

from collections.abc import Sequence

import torch

from crossbreed.kernels.chance import draw_codes
from crossbreed.kernels.programs import CODES, Band, Chance, Coefficient, Consensus, Keep, Pick


def thin(delta: torch.Tensor, keep: Keep | None, rows: slice, first: int) -> torch.Tensor:
    """Zeroes what is not kept of some rows, whose first element has the flat index `first`."""
    match keep:
        case None:
            return delta
        case Band(low=low, high=high):
            outside = _is_outside(delta, low.magnitude, low.end, first)
            if high is None:
                return torch.where(outside, 0.0, delta)
            return delta * (~outside & _is_outside(delta, high.magnitude, high.end, first)).float()
        case Chance():
            last = first + delta.numel()
            codes = draw_codes(keep.key, first, last) if keep.codes is None else keep.codes[first:last]
            codes = codes.view(delta.shape).to(torch.int32).float()
            if keep.ranks is None:
                factor = 1 / keep.density if keep.rescale else 1.0
                return torch.where(codes < keep.density * CODES, delta, 0.0) * factor
            ranks = keep.ranks.view(-1, delta.shape[1])[rows].float()
            chance = ranks * keep.slope + keep.least
            kept = torch.where(codes < chance, delta, 0.0)
            return kept * (float(CODES) / chance) if keep.rescale else kept


def _is_outside(delta: torch.Tensor, magnitude: float, end: int, first: int) -> torch.Tensor:
    """Outside a cut. NaN is larger than anything, as it is when cuts are found."""
    size, index = delta.abs(), torch.arange(first, first + delta.numel(), device=delta.device).view_as(delta)
    return (size <= magnitude) & ((size != magnitude) | (index >= end))


def weigh(deltas: Sequence[torch.Tensor], weights: Sequence[Coefficient]) -> list[torch.Tensor]:
    """Multiplies each delta by a number, a row or a column."""
    return [delta * weight for delta, weight in zip(deltas, weights, strict=True)]


def elect(votes: Sequence[torch.Tensor], weights: Sequence[float], consensus: Consensus, pick: Pick) -> torch.Tensor:
    """Returns the mean, the sum or the largest of the votes that agree with the elected sign."""
    if consensus is Consensus.NONE:
        return add(votes)
    elected = add(votes if consensus is Consensus.SUM else [vote.sign() for vote in votes])
    sign = torch.where(elected < 0, -1.0, 1.0)
    agreeing = [vote * sign for vote in votes]
    agreeing = [torch.where(vote < 0, 0.0, vote) for vote in agreeing]  # NaN stays, and Inf wins its vote
    if pick is Pick.MAX:
        largest = agreeing[0]
        for other in agreeing[1:]:
            largest = torch.where((other > largest) | other.isnan(), other, largest)
        return largest * sign
    total = add(agreeing)
    if pick is Pick.MEAN:
        divisor = add([torch.where(vote > 0, weight, 0.0) for vote, weight in zip(agreeing, weights, strict=True)])
        total = total / torch.where(divisor == 0, 1.0, divisor)
    return total * sign


def add(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sums in order."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
