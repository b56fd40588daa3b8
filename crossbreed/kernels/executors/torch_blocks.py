"""Runs work in torch, in blocks of rows that stay in a core's cache: on any device, and where nothing is compiled.

The compiled kernels are tested against it bit by bit, so products and sums are operations of their own here too.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from crossbreed.kernels.executors.lowering import Apply, Pass
from crossbreed.kernels.executors.protocol import TensorMerge, Waiting, checked
from crossbreed.kernels.linalg.order_statistics import find_threshold, rank_rows, sort_thresholds
from crossbreed.kernels.masks import RANDOM_LEVELS, Mask, MaskKind
from crossbreed.kernels.native import PHILOX_BLOCK, Thresholds
from crossbreed.kernels.programs import Coefficient, Consensus, Pick
from crossbreed.kernels.tensors import ExpertTensor, as_matrix, row_blocks

_SORTABLE = 1 << 26
"""Elements beyond which a sort would take gigabytes."""


class TorchBlocks:
    """Does everything when it is waited for. The other executors inherit what they do no better."""

    stores_random_u16 = True

    def __init__(self, block: int | None = None) -> None:
        """Chooses the elements in a block; None: as many as stay in a core's cache."""
        self._block = block

    def start(self, merges: Sequence[TensorMerge], base: torch.Tensor) -> list[Waiting]:
        """As `Executor.start`."""
        return [partial(self._finish, merge, base) for merge in merges]

    def find_thresholds(self, expert: ExpertTensor, base: torch.Tensor, keeps: NDArray[np.int64]) -> Thresholds | None:
        """As `Executor.find_thresholds`."""
        if len(keeps) == 1:
            found = find_threshold(expert.whole_delta(base), int(keeps[0]))
            return np.array([found.magnitude], np.float32), np.array([found.end], np.int64)
        return None if base.numel() > _SORTABLE else sort_thresholds(expert.whole_delta(base), keeps)

    def rank_rows(self, expert: ExpertTensor, base: torch.Tensor) -> torch.Tensor:
        """As `Executor.rank_rows`."""
        return rank_rows(expert.whole_delta(base))

    def random_u16(self, key: tuple[int, int], size: int) -> torch.Tensor:
        """As `Executor.random_u16`."""
        return draw_random_u16(key, 0, size)

    def run(self, merge: TensorMerge, base: torch.Tensor) -> torch.Tensor:
        """Merges a tensor and returns the result unchecked."""
        base_MN, merged_MN = as_matrix(base), as_matrix(merge.merged)
        blocks = row_blocks(merged_MN, self._block)
        match merge.work:
            case Pass() as work:
                for rows in blocks:
                    merged_MN[rows] = _merge(work, base_MN, rows)
            case Apply() as work:
                numbers = torch.tensor(work.numbers, dtype=torch.float32, device=base.device)
                for rows in blocks:
                    merged_MN[rows] = _apply(work, base_MN, rows, numbers)
        return merge.merged

    def _finish(self, merge: TensorMerge, base: torch.Tensor) -> torch.Tensor:
        return checked(self.run(merge, base))


def draw_random_u16(key: tuple[int, int], first: int, last: int) -> torch.Tensor:
    """Returns uint16: the random numbers of the elements from `first` to `last`, by numpy."""
    start = first // PHILOX_BLOCK
    stream = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=start)
    words = stream.random_raw(4 * (-(-last // PHILOX_BLOCK) - start))
    return torch.from_numpy(words.astype("<u8").view("<u2")[first - start * PHILOX_BLOCK : last - start * PHILOX_BLOCK])


def _apply(work: Apply, base_MN: torch.Tensor, rows: slice, numbers: torch.Tensor) -> torch.Tensor:
    base_KN = base_MN[rows].float()
    deltas = [value.delta(base_KN, rows) for value in work.values]
    return base_KN + work.body(base_KN, deltas, [side_MN[rows] for side_MN in work.sides_MN], numbers) * work.factor


def _merge(work: Pass, base_MN: torch.Tensor, rows: slice) -> torch.Tensor:
    base_KN, first = base_MN[rows].float(), rows.start * base_MN.shape[1]
    deltas = [
        _thin(value.delta(base_KN, rows), mask, rows, first)
        for value, mask in zip(work.values, work.masks, strict=True)
    ]
    weights = [_of_rows(weight, rows, base_MN) for weight in work.weights]
    votes = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    if work.consensus is None:
        return _add([*votes, base_KN * work.of_base])
    elected = _elect(votes, cast(Sequence[float], weights), work.consensus, work.pick)
    return base_KN + elected * work.scale


def _of_rows(weight: Coefficient, rows: slice, base_MN: torch.Tensor) -> Coefficient:
    """The part of a coefficient for some rows."""
    if not isinstance(weight, torch.Tensor):
        return weight
    is_column = tuple(weight.shape) == (len(base_MN), 1)
    return (weight[rows] if is_column else weight).to(base_MN.device)


def _thin(delta: torch.Tensor, mask: Mask, rows: slice, first: int) -> torch.Tensor:
    """Zeroes what is not kept of some rows, whose first element has the flat index `first`."""
    one, two = mask.numbers
    match mask.kind:
        case MaskKind.ALL:
            return delta
        case MaskKind.LOW:
            return torch.where(_is_outside(delta, one, mask.ends[0], first), 0.0, delta)
        case MaskKind.BAND:
            outside, outlying = (_is_outside(delta, *ends, first) for ends in zip(mask.numbers, mask.ends, strict=True))
            return delta * (~outside & outlying).float()
    random_u16 = _random_u16(mask, delta, first)
    if mask.kind is MaskKind.RANDOM:
        return torch.where(random_u16 < one, delta, 0.0) * two
    assert mask.ranks is not None, "a mask by rank has ranks"
    limit = mask.ranks.view(-1, delta.shape[1])[rows].to(delta.device).float() * two + one
    kept = torch.where(random_u16 < limit, delta, 0.0)
    return kept * (float(RANDOM_LEVELS) / limit) if mask.kind is MaskKind.RANKED_RESCALED else kept


def _random_u16(mask: Mask, delta: torch.Tensor, first: int) -> torch.Tensor:
    """The random numbers of a block's elements, as fp32."""
    last = first + delta.numel()
    drawn = draw_random_u16(mask.key, first, last) if mask.random_u16 is None else mask.random_u16[first:last]
    return drawn.view(delta.shape).to(delta.device).to(torch.int32).float()


def _is_outside(delta: torch.Tensor, magnitude: float, end: int, first: int) -> torch.Tensor:
    """Outside a threshold. NaN is larger than anything, as it is when thresholds are found."""
    size, index = delta.abs(), torch.arange(first, first + delta.numel(), device=delta.device).view_as(delta)
    return (size <= magnitude) & ((size != magnitude) | (index >= end))


def _elect(votes: Sequence[torch.Tensor], weights: Sequence[float], consensus: Consensus, pick: Pick) -> torch.Tensor:
    """Returns the mean, the sum or the largest of the votes that agree with the elected sign."""
    if consensus is Consensus.NONE:
        return _add(votes)
    elected = _add(votes if consensus is Consensus.SUM else [vote.sign() for vote in votes])
    sign = torch.where(elected < 0, -1.0, 1.0)
    agreeing = [vote * sign for vote in votes]
    agreeing = [torch.where(vote < 0, 0.0, vote) for vote in agreeing]  # NaN stays, and Inf wins its vote
    if pick is Pick.MAX:
        largest = agreeing[0]
        for other in agreeing[1:]:
            largest = torch.where((other > largest) | other.isnan(), other, largest)
        return largest * sign
    total = _add(agreeing)
    if pick is Pick.MEAN:
        divisor = _add([torch.where(vote > 0, weight, 0.0) for vote, weight in zip(agreeing, weights, strict=True)])
        total = total / torch.where(divisor == 0, 1.0, divisor)
    return total * sign


def _add(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sums in order."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
