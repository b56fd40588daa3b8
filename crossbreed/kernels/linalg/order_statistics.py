"""Which element has a rank: selections, thresholds and quantiles, exact whatever is equal to what.

Magnitudes are compared by the bits of their fp32 form, which are ordered as the numbers are (NaN is the largest of
all): integers are selected faster, and the count is right whatever a tensor holds.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from crossbreed.kernels.masks import Threshold
from crossbreed.kernels.native import Thresholds

_SAMPLE, _MARGIN = 8192, 256
_INDEXED = 1 << 24
"""Elements that are ranked at a time: an index takes 8 bytes for each."""
_CHUNK = 1 << 17
_HALF = 1 << 16


def find_threshold(delta: torch.Tensor, keep: int) -> Threshold:
    """Returns the threshold that keeps `keep` (from 1 to n) of a delta's n fp32 elements."""
    bits = magnitude_bits(delta)
    magnitude = select(bits, len(bits) - keep)
    num_equal_kept = keep - np.count_nonzero(bits > magnitude)
    end = int(np.flatnonzero(bits == magnitude)[num_equal_kept - 1]) + 1
    return Threshold(magnitude.view(np.float32).item(), end)


def sort_thresholds(delta: torch.Tensor, keeps: NDArray[np.int64]) -> Thresholds:
    """Returns several thresholds of a delta at once."""
    bits = magnitude_bits(delta)
    size = len(bits)
    # Later elements first among equals: the last of the kept ones is then the one with the highest index.
    keys = np.sort((bits.astype(np.int64) << 32) | (size - 1 - np.arange(size)))
    last = keys[size - keeps]
    return (last >> 32).astype(np.int32).view(np.float32), size - (last & 0xFFFFFFFF)


def magnitude_bits(delta: torch.Tensor) -> NDArray[np.int32]:
    """Returns [n]: magnitudes as integers in the same order."""
    return delta.abs().reshape(-1).cpu().numpy().view(np.int32)


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


def rank_rows(delta: torch.Tensor) -> torch.Tensor:
    """Returns uint8 [n]: where each magnitude stands in its row, from 0 (the smallest) to 255. A vector is a row."""
    rows = delta.abs().reshape(-1, delta.shape[-1]) if delta.ndim > 1 else delta.abs().reshape(1, -1)
    width = rows.shape[1]
    if width == 1:
        return torch.full((delta.numel(),), 128, dtype=torch.uint8, device=delta.device)
    levels = (torch.arange(width, device=delta.device) * 255 // (width - 1)).to(torch.uint8)
    ranks = torch.empty(rows.shape, dtype=torch.uint8, device=delta.device)
    step = max(1, _INDEXED // width)
    for start in range(0, len(rows), step):
        order = rows[start : start + step].argsort(dim=1, stable=True)
        ranks[start : start + step].scatter_(1, order, levels.expand(order.shape))
    return ranks.reshape(-1)


def values_of_ranks(
    pieces: Callable[[], Iterator[tuple[int, torch.Tensor]]],
    num_experts: int,
    ranks: Callable[[int], tuple[int, int]],
) -> list[tuple[float, float]]:
    """Returns the values that have two ranks among all of an expert's, in sorted order, exactly.

    Two passes count the upper halves of keys that are ordered as the values are, then the lower halves of those that
    share an upper half with a rank: one piece is held at a time, and nothing is sorted.

    Args:
        pieces: Yields (which expert, fp32 values), as often as it is called; of all experts as many.
        num_experts: How many.
        ranks: Number of an expert's values -> the two ranks.
    """
    uppers, lowers = np.zeros((num_experts, _HALF), np.int64), np.zeros((num_experts, 2, _HALF), np.int64)
    for expert, values in pieces():
        for keys in _keys(values):
            uppers[expert] += np.bincount(keys >> 16, minlength=_HALF)
    wanted = ranks(int(uppers[0].sum()))
    up_to = uppers.cumsum(1)
    inside = [[int(own.searchsorted(rank, side="right")) for rank in wanted] for own in up_to]
    for expert, values in pieces():
        for keys in _keys(values):
            for lower, upper in zip(lowers[expert], inside[expert], strict=True):
                lower += np.bincount(keys[keys >> 16 == upper] & (_HALF - 1), minlength=_HALF)

    def value(expert: int, i: int) -> float:
        upper = inside[expert][i]
        rank = wanted[i] - (up_to[expert, upper] - uppers[expert, upper])
        return _value((upper << 16) + int(lowers[expert, i].cumsum().searchsorted(rank, side="right")))

    return [(value(expert, 0), value(expert, 1)) for expert in range(num_experts)]


def _keys(values: torch.Tensor) -> Iterator[NDArray[np.uint32]]:
    """Yields whole numbers that are ordered as fp32 values are, a chunk at a time."""
    bits = values.reshape(-1).cpu().numpy().view(np.uint32)
    for start in range(0, len(bits), _CHUNK):
        part = bits[start : start + _CHUNK]
        yield np.where(part >> 31, ~part, part | 1 << 31)


def _value(key: int) -> float:
    bits = key ^ (1 << 31) if key >> 31 else key ^ 0xFFFFFFFF
    return np.uint32(bits).view(np.float32).item()
