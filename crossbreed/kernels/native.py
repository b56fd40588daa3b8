"""Compiles `native.hpp` for what a merge needs, and calls it: one small library for each variant, in the user's cache.

A variant (so many experts, of these dtypes, thinned out like this) takes a second to compile, once on a machine.
Where no compiler is found `plain` does the same work, several times slower and to the same bits.
"""

import ctypes
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch

from crossbreed.sources.hashes import cache_folder

_HEADER = Path(__file__).with_name("native.hpp")
_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),  # the first keeps bits, the others change none
)
_STORED = {torch.bfloat16: "Bfloat16", torch.float16: "_Float16", torch.float32: "float"}
_CPUS = os.sched_getaffinity(0)
"""Before an engine binds the main thread, and whatever it starts, to one of them."""
_WORTH_A_THREAD = 1 << 17
"""Elements below which waking another thread costs more than it saves."""
_Merge: TypeAlias = Callable[["ctypes._Pointer[_Job]", int, int], int]


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
    """As `Keep` in native.hpp."""
    numbers: Sequence[float] = ()
    ends: Sequence[int] = ()
    codes: torch.Tensor | None = None
    ranks: torch.Tensor | None = None


def compiler() -> str | None:
    """Returns the C++ compiler that is used; CROSSBREED_COMPILER names another, or none if it is empty."""
    return _find(os.environ.get("CROSSBREED_COMPILER", "g++"))


@cache
def _find(name: str) -> str | None:
    return shutil.which(name)


def merge(
    base_MN: torch.Tensor,
    merged_MN: torch.Tensor,
    operands: Sequence[Operand],
    *,
    consensus: str,
    pick: str,
    of_base: float,
    scale: float,
) -> bool:
    """Writes a merged tensor and returns True; or False: no compiler, or a dtype that kernels do not know.

    Args:
        base_MN: The base's tensor, contiguous.
        merged_MN: Where the result goes, contiguous, of the same shape.
        operands: At least one.
        consensus: As `Consensus` in native.hpp.
        pick: As `Pick` in native.hpp.
        of_base: Coefficient of the base, without an election.
        scale: Of what is added to the base, with one.
    """
    kinds = [_kind(operand) for operand in operands]
    if base_MN.dtype not in _STORED or merged_MN.dtype not in _STORED or None in kinds:
        return False
    types = ", ".join((_STORED[base_MN.dtype], _STORED[merged_MN.dtype], *(kind for kind in kinds if kind)))
    found = compiler()
    function = found and _variant(found, f"merge<Consensus::{consensus}, Pick::{pick}, {types}>", len(kinds))
    if not function:
        return False
    is_flat = all(operand.b is None and operand.by_row is None and operand.by_column is None for operand in operands)
    rows, columns = (1, base_MN.numel()) if is_flat else base_MN.shape
    values = (_Value * len(operands))(*map(_value, operands))
    job = _Job(base_MN.data_ptr(), merged_MN.data_ptr(), values, rows, columns, of_base, scale)
    _in_parallel(function, job, columns if rows == 1 else rows, base_MN.numel())
    return True


def product(b_MR: torch.Tensor, a_RN: torch.Tensor) -> torch.Tensor | None:
    """Returns the fp32 product as `merge` makes it; None where nothing is compiled."""
    made_MN = torch.empty(len(b_MR), a_RN.shape[1])
    zero_MN = torch.zeros_like(made_MN)
    operand = Operand(b=b_MR.contiguous(), a=a_RN.contiguous())
    done = merge(zero_MN, made_MN, [operand], consensus="affine", pick="sum", of_base=0.0, scale=1.0)
    return made_MN if done else None


def _kind(operand: Operand) -> str | None:
    by_column = "true" if operand.by_column is not None else "false"
    if operand.full is None:
        return f"{'Delta' if operand.b is None else 'LowRank'}<Keep::{operand.keep}, {by_column}>"
    stored = _STORED.get(operand.full.dtype)
    return stored and f"Full<{stored}, Keep::{operand.keep}, {by_column}>"


def _value(operand: Operand) -> _Value:
    data = operand.full if operand.full is not None else operand.delta
    value = _Value(
        *(_address(t) for t in (data, operand.b, operand.a, operand.by_row, operand.by_column)),
        *(_address(t) for t in (operand.codes, operand.ranks)),
        rank=0 if operand.a is None else len(operand.a),
        weight=operand.weight,
    )
    value.numbers[: len(operand.numbers)] = list(operand.numbers)
    value.ends[: len(operand.ends)] = list(operand.ends)
    return value


def _address(tensor: torch.Tensor | None) -> int | None:
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()


def _in_parallel(function: _Merge, job: _Job, length: int, size: int) -> None:
    pointer = ctypes.pointer(job)
    num_threads = min(torch.get_num_threads(), length, 1 + size // _WORTH_A_THREAD)
    if num_threads == 1:
        function(pointer, 0, length)
        return
    edges = [length * part // num_threads for part in range(num_threads + 1)]
    others = [_threads().submit(function, pointer, *edges[i : i + 2]) for i in range(1, num_threads)]
    function(pointer, *edges[:2])
    for other in others:
        other.result()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "merge", initializer=lambda: os.sched_setaffinity(0, _CPUS))


@cache
def _variant(compiler: str, call: str, num_values: int) -> _Merge | None:
    source = (
        f'{_HEADER.read_text()}\nextern "C" int crossbreed_merge(const Job* job, int64_t first, int64_t last) {{\n'
        f"  return {call}(*job, first, last, std::make_index_sequence<{num_values}>());\n}}\n"
    )
    try:
        library = ctypes.CDLL(str(_compiled(compiler, source)))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        warnings.warn(f"{compiler} does not compile merge kernels, so merges are slow: {detail[-300:]}", stacklevel=2)
        return None
    function = library.crossbreed_merge
    function.argtypes, function.restype = (ctypes.POINTER(_Job), ctypes.c_int64, ctypes.c_int64), ctypes.c_int
    merge_: _Merge = function
    return merge_


def _compiled(compiler: str, source: str) -> Path:
    key = sha256("\n".join([source, *_FLAGS, _version(compiler), _processor()]).encode()).hexdigest()[:24]
    library = cache_folder() / "kernels" / f"{key}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}.so")  # renamed into place: other processes see all of it or nothing
        command = [compiler, *_FLAGS, "-x", "c++", "-", "-o", str(made)]
        subprocess.run(command, input=source, check=True, capture_output=True, text=True)
        made.replace(library)
    return library


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout


def _processor() -> str:
    """What -march=native depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
