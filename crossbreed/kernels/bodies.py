"""The arithmetic of `Affine` and `Election`, element by element, as torch functions that are compiled or run plainly.

Every product and every sum is an operation of its own: torch may not contract them, so a machine with a compiler and
one without make the same bits.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch

from crossbreed.kernels.programs import CODES, Body, Consensus, Pick

KeepKind: TypeAlias = Literal["all", "low", "band", "chance", "ranked"]
NUMBERS: dict[KeepKind, int] = {"all": 1, "low": 2, "band": 3, "chance": 3, "ranked": 4}
"""Of a voter: its weight, then what its mask needs."""
ENDS: dict[KeepKind, int] = {"all": 0, "low": 1, "band": 2, "chance": 0, "ranked": 0}
SIDES: dict[KeepKind, int] = {"all": 0, "low": 0, "band": 0, "chance": 2, "ranked": 3}


def affine(
    base: torch.Tensor,
    deltas: Sequence[torch.Tensor],
    sides: Sequence[torch.Tensor],
    numbers: torch.Tensor,
    ends: None,
    index: None,
) -> torch.Tensor:
    """sum(ci di) + c0 W0; numbers are c1 ... cn, c0."""
    total = deltas[0] * numbers[0]
    for i in range(1, len(deltas)):
        total = total + deltas[i] * numbers[i]
    return total + base * numbers[len(deltas)]


def affine_by_vectors(
    base: torch.Tensor,
    deltas: Sequence[torch.Tensor],
    vectors: Sequence[torch.Tensor],
    numbers: torch.Tensor,
    ends: None,
    index: None,
) -> torch.Tensor:
    """The same with a row, a column or a single number for each delta."""
    total = deltas[0] * vectors[0]
    for delta, vector in zip(deltas[1:], vectors[1:], strict=True):
        total = total + delta * vector
    return total + base * numbers[0]


def elementwise(
    base: torch.Tensor,
    deltas: Sequence[torch.Tensor],
    sides: Sequence[torch.Tensor],
    numbers: torch.Tensor,
    ends: None,
    index: None,
    body: Body,
) -> torch.Tensor:
    """W0 + factor * body; the factor is the last of the numbers."""
    last = numbers.shape[0] - 1
    return base + body(base, deltas, sides, numbers[:last]) * numbers[last]


def election(
    base: torch.Tensor,
    deltas: Sequence[torch.Tensor],
    sides: Sequence[torch.Tensor],
    numbers: torch.Tensor,
    ends: torch.Tensor | None,
    index: torch.Tensor | None,
    keeps: Sequence[KeepKind],
    consensus: Consensus,
    pick: Pick,
) -> torch.Tensor:
    """W0 + scale * pick; numbers are the voters', then the scale. `index` is each element's flat index."""
    votes, weights, at, end, side = [], [], 0, 0, 0
    for kind, delta in zip(keeps, deltas, strict=True):
        own = numbers[at : at + NUMBERS[kind]]
        mine = sides[side : side + SIDES[kind]]
        until = () if ends is None else ends[end : end + ENDS[kind]]
        votes.append(_thin(delta, kind, own, mine, until, index) * own[0])
        weights.append(own[0])
        at, end, side = at + NUMBERS[kind], end + ENDS[kind], side + SIDES[kind]
    return base + _pick(votes, weights, consensus, pick) * numbers[at]


def _thin(
    delta: torch.Tensor,
    kind: KeepKind,
    numbers: torch.Tensor,
    sides: Sequence[torch.Tensor],
    ends: Sequence[torch.Tensor] | torch.Tensor,
    index: torch.Tensor | None,
) -> torch.Tensor:
    if kind == "all":
        return delta
    if kind in ("low", "band"):
        assert index is not None
        size = delta.abs()
        kept = _inside(size, numbers[1], ends[0], index)
        if kind == "band":
            kept = kept & ~_inside(size, numbers[2], ends[1], index)
        return delta * kept.to(torch.float32)
    code = sides[0].to(torch.float32) * 256.0 + sides[1].to(torch.float32)
    if kind == "chance":
        return delta * (code < numbers[1]).to(torch.float32) * numbers[2]
    chance = numbers[1] + sides[2].to(torch.float32) * numbers[2]  # of 65,536
    kept = (code < chance).to(torch.float32)
    return delta * torch.where(numbers[3] > 0, kept * float(CODES) / chance.clamp_min(1.0), kept)


def _inside(size: torch.Tensor, magnitude: torch.Tensor, end: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """NaN is larger than anything, as it is when cuts are found."""
    return ~(size <= magnitude) | ((size == magnitude) & (index < end))


def _pick(
    votes: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], consensus: Consensus, pick: Pick
) -> torch.Tensor:
    if consensus is Consensus.NONE:
        return _sum(votes)
    ballots = votes if consensus is Consensus.SUM else [vote.sign() for vote in votes]
    sign = torch.where(_sum(ballots) < 0, -1.0, 1.0)
    agreeing = [(vote * sign).clamp_min(0.0) for vote in votes]  # NaN stays, and Inf wins its vote
    if pick is Pick.MAX:
        largest = agreeing[0]
        for other in agreeing[1:]:
            largest = torch.maximum(largest, other)
        return largest * sign
    total = _sum(agreeing)
    if pick is Pick.MEAN:
        counted = [(part > 0).to(torch.float32) * weight for part, weight in zip(agreeing, weights, strict=True)]
        divisor = _sum(counted)
        total = total / torch.where(divisor == 0, 1.0, divisor)
    return total * sign


def _sum(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
