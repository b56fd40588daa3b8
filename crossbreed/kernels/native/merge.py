"""Merges one tensor by an instance of `merge.hpp`: so many experts, of these dtypes, thinned out like this.

An instance takes a second to compile, once on a machine. Where no compiler is found `plain` does the same work, several
times slower and to the same bits.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from crossbreed.kernels.native.compiling import compiler, library
from crossbreed.kernels.native.threads import Begun, in_parallel, threads

_HEADER = Path(__file__).with_name("merge.hpp")
_STORED = {torch.bfloat16: "Bfloat16", torch.float16: "_Float16", torch.float32: "float"}
_Function: TypeAlias = Callable[[Any, int, int, int, Any], None]


class _Value(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("a", ctypes.c_void_p),
        ("by_row", ctypes.c_void_p),
        ("by_column", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("ranks", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("ends", ctypes.c_int64 * 2),
        ("weight", ctypes.c_float),
        ("numbers", ctypes.c_float * 2),
    )


class _Job(ctypes.Structure):
    _fields_ = (
        ("base", ctypes.c_void_p),
        ("merged", ctypes.c_void_p),
        ("values", ctypes.POINTER(_Value)),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("of_base", ctypes.c_float),
        ("scale", ctypes.c_float),
    )


class Operand(NamedTuple):
    """One delta, with its coefficient and what is kept of it. Tensors are contiguous."""

    full: torch.Tensor | None = None
    """An expert's tensor."""
    delta: torch.Tensor | None = None
    """fp32, ready."""
    b: torch.Tensor | None = None
    """fp32 [rows, rank] ..."""
    a: torch.Tensor | None = None
    """... times fp32 [rank, columns]."""
    weight: float = 1.0
    by_row: torch.Tensor | None = None
    by_column: torch.Tensor | None = None
    keep: str = "all"
    """As `Keep` in merge.hpp."""
    numbers: Sequence[float] = ()
    ends: Sequence[int] = ()
    codes: torch.Tensor | None = None
    ranks: torch.Tensor | None = None


class Merge(NamedTuple):
    """What becomes of one tensor. Tensors are contiguous."""

    merged_MN: torch.Tensor
    """Where the result goes."""
    operands: Sequence[Operand]
    """At least one."""
    consensus: str
    """As `Consensus` in merge.hpp."""
    pick: str
    """As `Pick` in merge.hpp."""
    of_base: float
    """Coefficient of the base, without an election."""
    scale: float
    """Of what is added to the base, with one."""


def start(base_MN: torch.Tensor, merges: Sequence[Merge]) -> list[Callable[[], bool] | None]:
    """Starts merges of one tensor on other threads; those that differ in numbers alone in one pass.

    Args:
        base_MN: The base's tensor, contiguous.
        merges: What is to be made.

    Returns:
        For each what waits for it and says whether it is finite; None: there is no compiler, or kernels do not know a
        dtype.
    """
    groups: dict[tuple[str | None, bool], list[int]] = {}
    for index, merge in enumerate(merges):
        groups.setdefault((_call(base_MN, merge), _is_flat(merge)), []).append(index)
    waits: list[Callable[[], bool] | None] = [None] * len(merges)
    for (call, _), members in groups.items():
        begun = call and _start(base_MN, [merges[index] for index in members], call)
        if begun:
            for place, index in enumerate(members):
                waits[index] = partial(begun.wait, place)
    return waits


def _start(base_MN: torch.Tensor, merges: Sequence[Merge], call: str) -> Begun | None:
    found = compiler()
    if found is None:
        return None
    function = _variant(found, call, len(merges[0].operands))
    pool = threads(found, torch.get_num_threads())
    if function is None or pool is None:
        return None
    assert base_MN.is_contiguous(), "kernels read elements in a row"
    rows, columns = (1, base_MN.numel()) if _is_flat(merges[0]) else base_MN.shape
    values = [(_Value * len(merge.operands))(*map(_value, merge.operands)) for merge in merges]
    jobs = (_Job * len(merges))()
    for job, merge, own in zip(jobs, merges, values, strict=True):
        data = base_MN.data_ptr(), merge.merged_MN.data_ptr()
        job.base, job.merged, job.values, job.rows, job.columns = *data, own, rows, columns
        job.of_base, job.scale = merge.of_base, merge.scale
    begun = Begun(pool, function, jobs, held=(base_MN, merges, values))
    return begun.begin(columns if rows == 1 else rows, base_MN.numel())


def find_magnitude(base_MN: torch.Tensor, operand: Operand, keep: int) -> tuple[float, int] | None:
    """Returns where the `keep` largest elements of a delta end: the last one's magnitude, and the place after it.

    Of equal magnitudes those that come first are kept. Two passes: how many magnitudes share their upper 16 bits; then
    those are looked at among which the cut falls.

    Args:
        base_MN: The base's tensor, contiguous.
        operand: A full tensor or a ready delta.
        keep: From 1 to the number of elements.
    """
    types, found = [_STORED.get(base_MN.dtype), _kind(operand)], compiler()
    if None in types or found is None:
        return None
    function = _selecting(found, ", ".join(map(str, types)))
    if function is None:
        return None
    values, size = (_Value * 1)(_value(operand)), base_MN.numel()
    job = _Job(base=base_MN.data_ptr(), values=values, rows=1, columns=size)

    def count(first: int, last: int) -> NDArray[np.int64]:
        counts = np.zeros(1 << 16, dtype=np.int64)
        function(ctypes.byref(job), first, last, -1, counts.ctypes.data)
        return counts

    counts = in_parallel(count, size, size)
    above = np.cumsum(np.sum(counts, axis=0)[::-1])[::-1]  # with these upper bits, or larger ones
    upper = int(np.flatnonzero(above >= keep)[-1])

    def collect(first: int, last: int, num: int) -> NDArray[np.int64]:
        places = np.empty(num, dtype=np.int64)
        function(ctypes.byref(job), first, last, upper, places.ctypes.data)
        return places

    nums = [int(own[upper]) for own in counts]
    inside = np.concatenate(in_parallel(collect, size, size, nums))
    rank = len(inside) - (keep - (int(above[upper + 1]) if upper + 1 < len(above) else 0))
    last = int(np.partition(inside, rank)[rank])
    return float(np.int32(last >> 32).view(np.float32)), size - (last & 0xFFFFFFFF)


def product(b_MR: torch.Tensor, a_RN: torch.Tensor) -> torch.Tensor | None:
    """Returns the fp32 product as merges make it; None where nothing is compiled."""
    made_MN = torch.empty(len(b_MR), a_RN.shape[1], dtype=torch.float32)
    operand = Operand(b=b_MR.contiguous(), a=a_RN.contiguous())
    merge = Merge(made_MN, [operand], consensus="affine", pick="sum", of_base=0.0, scale=1.0)
    (wait,) = start(torch.zeros_like(made_MN), [merge])
    if wait is None:
        return None
    wait()
    return made_MN


def _call(base_MN: torch.Tensor, merge: Merge) -> str | None:
    """The instance of `merge` in merge.hpp that does it."""
    types = [_STORED.get(base_MN.dtype), _STORED.get(merge.merged_MN.dtype), *map(_kind, merge.operands)]
    if None in types:
        return None
    return f"merge<Consensus::{merge.consensus}, Pick::{merge.pick}, {', '.join(map(str, types))}>"


def _is_flat(merge: Merge) -> bool:
    """Rows do not matter: the tensor may be cut anywhere."""
    return all(part is None for operand in merge.operands for part in (operand.b, operand.by_row, operand.by_column))


def _kind(operand: Operand) -> str | None:
    by_column = "true" if operand.by_column is not None else "false"
    if operand.full is None:
        return f"{'Delta' if operand.b is None else 'LowRank'}<Keep::{operand.keep}, {by_column}>"
    stored = _STORED.get(operand.full.dtype)
    return stored and f"Full<{stored}, Keep::{operand.keep}, {by_column}>"


def _value(operand: Operand) -> _Value:
    data = _address(operand.delta) if operand.full is None else _address(operand.full, operand.full.dtype)
    value = _Value(
        data,
        *(_address(tensor) for tensor in (operand.b, operand.a, operand.by_row, operand.by_column)),
        _address(operand.codes, torch.uint16),
        _address(operand.ranks, torch.uint8),
        rank=0 if operand.a is None else len(operand.a),
        weight=operand.weight,
    )
    value.numbers[: len(operand.numbers)] = list(operand.numbers)
    value.ends[: len(operand.ends)] = list(operand.ends)
    return value


def _address(tensor: torch.Tensor | None, dtype: torch.dtype = torch.float32) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous(), "kernels read elements in a row"
    assert tensor.dtype == dtype, f"kernels were told {dtype}, and would read {tensor.dtype}"
    return tensor.data_ptr()


@cache
def _variant(compiler: str, call: str, num_values: int) -> _Function | None:
    return _function(
        compiler,
        "const Job* jobs, int64_t num_jobs, int64_t first, int64_t last, uint8_t* bad",
        f"{call}(jobs, num_jobs, first, last, bad, std::make_index_sequence<{num_values}>());",
    )


@cache
def _selecting(compiler: str, types: str) -> _Function | None:
    return _function(
        compiler,
        "const Job* job, int64_t first, int64_t last, int64_t upper, int64_t* out",
        f"upper < 0 ? count<{types}>(*job, first, last, out) : (void)collect<{types}>(*job, first, last, upper, out);",
    )


def _function(compiler: str, parameters: str, body: str) -> _Function | None:
    source = f'{_HEADER.read_text()}\nextern "C" void crossbreed_kernel({parameters}) {{\n  {body}\n}}\n'
    found = library(compiler, source)
    if found is None:
        return None
    function = found.crossbreed_kernel
    function.argtypes, function.restype = (ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p), None
    kernel: _Function = function
    return kernel
