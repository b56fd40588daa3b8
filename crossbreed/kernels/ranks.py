"""Which value has a rank, among more values than fit in memory together: quantiles of a whole model's deltas."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

_CHUNK = 1 << 17
_HALF = 1 << 16


def ranked(
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
