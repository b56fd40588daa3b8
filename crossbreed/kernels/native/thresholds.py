"""Finds what every merge needs of one expert's delta, by instances of `thresholds.hpp`, on all threads."""

import ctypes
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from crossbreed.kernels.native.compiling import compiler
from crossbreed.kernels.native.operands import Kernel, Operand, TensorArgs, Value, kernel_of, stored_as
from crossbreed.kernels.native.threads import in_parallel

_DIGITS = (1 << 12, 1 << 10, 1 << 9)
"""How many values each digit of a magnitude can have."""
_SELECTING = (
    "const TensorArgs* args, const Wanted* wanted, int64_t digit, int64_t first, int64_t last, uint32_t* counts,"
    "const int64_t* before, int64_t* found"
)
_SELECT = (
    "if (counts != nullptr) count<{0}>(*args, *wanted, digit, first, last, counts);"
    "else if (before != nullptr) locate<{0}>(*args, *wanted, first, last, before, found);"
    "else collect<{0}>(*args, *wanted, first, last, found);"
)
_FEW = 8
"""Elements are looked at one by one where they are fewer than one in so many."""
PHILOX_BLOCK = 16
"""Elements that a Philox block has numbers for."""

Thresholds: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Of each threshold the magnitude of the last element inside, and the place after it."""


class _Wanted(ctypes.Structure):
    _fields_ = (
        ("uppers", ctypes.c_void_p),
        ("middles", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("num_values", ctypes.c_int64),
        ("firsts", ctypes.c_void_p),
        ("numbers", ctypes.c_void_p),
    )


def find_thresholds(base: torch.Tensor, operand: Operand, keeps: NDArray[np.int64]) -> Thresholds | None:
    """Returns where the largest elements of a delta end. Of equal magnitudes those that come first are kept.

    A first pass groups magnitudes by their first digit. Where a threshold is alone, few elements have the same: a
    second pass collects them. Otherwise two more group them by all digits, and a last one looks for places.

    Args:
        base: The base's tensor, contiguous.
        operand: A full tensor or a ready delta.
        keeps: For each threshold how many elements are kept, from 1 to all; 32,767 thresholds at most.

    Returns:
        None: there is no compiler, or kernels do not know a dtype.
    """
    size, kernel = base.numel(), _kernel(base, operand, _SELECTING, _SELECT)
    if kernel is None:
        return None
    args, tables = _args(base, operand, size), list[NDArray[np.int16]]()
    ranks, bits, groups, num_rows = size - keeps, np.zeros_like(keeps), np.zeros_like(keeps), 1
    for num_digits in _DIGITS:
        counts_by_part = _count(kernel, args, tables, num_rows * num_digits)
        counts: NDArray[np.int64] = np.add.reduce(counts_by_part, dtype=np.int64)
        up_to = counts.cumsum()
        beginnings = groups * num_digits
        ranks = ranks + up_to[beginnings] - counts[beginnings]
        places = up_to.searchsorted(ranks, side="right")
        ranks = ranks - up_to[places] + counts[places]
        bits = bits * num_digits + places % num_digits
        kinds, groups = np.unique(places, return_inverse=True)
        tables.append(np.full(len(counts), len(kinds), dtype=np.int16))
        tables[-1][kinds] = np.arange(len(kinds))
        num_rows = len(kinds) + 1
        if len(tables) == 1 and _FEW * counts[kinds].sum() < size:
            keys = _collect(kernel, args, tables[0], [own[kinds] for own in counts_by_part])
            at = (counts[kinds].cumsum() - counts[kinds])[groups] + ranks
            last = np.partition(keys, np.unique(at))[at]
            return (last >> 32).astype(np.int32).view(np.float32), size - (last & 0xFFFFFFFF)
    numbers = counts[places] - ranks - 1  # of those equal to a threshold, the last one kept
    earlier = np.cumsum([np.zeros(len(kinds), np.int64), *[own[kinds] for own in counts_by_part[:-1]]], axis=0)
    return bits.astype(np.int32).view(np.float32), _locate(kernel, args, tables, groups, numbers, earlier)


def _count(
    kernel: Kernel, args: TensorArgs, tables: Sequence[NDArray[np.int16]], num_places: int
) -> list[NDArray[np.uint32]]:
    """How many magnitudes have each next digit, part by part."""
    wanted = _Wanted(*(table.ctypes.data for table in tables))

    def count(first: int, last: int) -> NDArray[np.uint32]:
        counts = np.zeros(num_places, dtype=np.uint32)
        kernel.call(ctypes.byref(args), ctypes.byref(wanted), len(tables), first, last, counts.ctypes.data, None, None)
        return counts

    return in_parallel(count, args.columns, args.columns)


def _collect(
    kernel: Kernel, args: TensorArgs, uppers: NDArray[np.int16], counts_by_part: Sequence[NDArray[np.uint32]]
) -> NDArray[np.int64]:
    """The magnitudes with a wanted first digit, each with its place from the end behind it."""
    wanted = _Wanted(uppers.ctypes.data, num_values=len(counts_by_part[0]))

    def collect(first: int, last: int, num: int) -> NDArray[np.int64]:
        keys = np.empty(num, dtype=np.int64)
        kernel.call(ctypes.byref(args), ctypes.byref(wanted), 1, first, last, None, None, keys.ctypes.data)
        return keys

    nums = [int(counts.sum()) for counts in counts_by_part]
    return np.concatenate(in_parallel(collect, args.columns, args.columns, nums))


def _locate(
    kernel: Kernel,
    args: TensorArgs,
    tables: Sequence[NDArray[np.int16]],
    groups: NDArray[np.int64],
    numbers: NDArray[np.int64],
    earlier: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Returns the place after the element that has a number in its group, for each pair of `groups` and `numbers`."""
    order = np.lexsort((numbers, groups))
    firsts, sorted_numbers = groups[order].searchsorted(np.arange(earlier.shape[1] + 1)), numbers[order]
    found, ends = np.empty_like(numbers), np.empty_like(numbers)
    addresses = (array.ctypes.data for array in tables)
    wanted = _Wanted(*addresses, earlier.shape[1], firsts.ctypes.data, sorted_numbers.ctypes.data)

    def locate(first: int, last: int, before: NDArray[np.int64]) -> None:
        pointers = before.ctypes.data, found.ctypes.data
        kernel.call(ctypes.byref(args), ctypes.byref(wanted), len(tables), first, last, None, *pointers)

    in_parallel(locate, args.columns, args.columns, list(earlier))
    ends[order] = found
    return ends


def rank_rows(base: torch.Tensor, operand: Operand, num_columns: int) -> torch.Tensor | None:
    """Returns uint8 [n]: where each magnitude of a delta stands in its row, from 0 (the smallest) to 255.

    Of equal ones those that come first stand lower. None: there is no compiler, or kernels do not know a dtype.
    """
    parameters = "const TensorArgs* args, int64_t first, int64_t last, uint8_t* ranks"
    kernel = _kernel(base, operand, parameters, "rank_rows<{0}>(*args, first, last, ranks);")
    if kernel is None:
        return None
    args, ranks = _args(base, operand, num_columns), torch.empty(base.numel(), dtype=torch.uint8)

    def rank(first: int, last: int) -> None:
        kernel.call(ctypes.byref(args), first, last, ranks.data_ptr())

    in_parallel(rank, base.numel() // num_columns, base.numel())
    return ranks


def draw_random_u16(key: tuple[int, int], size: int) -> torch.Tensor | None:
    """Returns uint16 [size], as numpy's Philox draws them with this key; None: there is no compiler."""
    found, num_blocks = compiler(), -(-size // PHILOX_BLOCK)
    parameters = "const uint64_t* key, int64_t first, int64_t last, uint16_t* random_u16"
    kernel = found and kernel_of(found, ("merge.hpp",), parameters, "draw(key, first, last, random_u16);")
    if not kernel:
        return None
    random_u16, words = torch.empty(num_blocks * PHILOX_BLOCK, dtype=torch.uint16), (ctypes.c_uint64 * 2)(*key)

    def draw(first: int, last: int) -> None:
        kernel.call(words, first, last, random_u16[first * PHILOX_BLOCK :].data_ptr())

    in_parallel(draw, num_blocks, size)
    return random_u16[:size]


def _kernel(base: torch.Tensor, operand: Operand, parameters: str, body: str) -> Kernel | None:
    """The instance for the dtypes of a base and a delta."""
    types, found = (stored_as(base.dtype), operand.kind), compiler()
    if None in types or found is None:
        return None
    return kernel_of(found, ("merge.hpp", "thresholds.hpp"), parameters, body.format(", ".join(map(str, types))))


def _args(base: torch.Tensor, operand: Operand, num_columns: int) -> TensorArgs:
    """Returns the arguments of a kernel that only reads; ctypes holds the value for it."""
    assert base.is_contiguous(), "kernels read elements in a row"
    values = (Value * 1)(operand.value)
    return TensorArgs(base.data_ptr(), None, values, base.numel() // num_columns, num_columns)
