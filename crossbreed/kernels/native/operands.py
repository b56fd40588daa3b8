"""What compiled kernels are given of one tensor: the structures of `merge.hpp`, filled in."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch

from crossbreed.kernels.masks import Mask
from crossbreed.kernels.native.compiling import library

_STORED = {torch.bfloat16: "Bfloat16", torch.float16: "_Float16", torch.float32: "float"}


class Value(ctypes.Structure):
    """As in merge.hpp."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("a", ctypes.c_void_p),
        ("by_row", ctypes.c_void_p),
        ("by_column", ctypes.c_void_p),
        ("random_u16", ctypes.c_void_p),
        ("ranks", ctypes.c_void_p),
        ("key", ctypes.c_uint64 * 2),
        ("rank", ctypes.c_int64),
        ("ends", ctypes.c_int64 * 2),
        ("weight", ctypes.c_float),
        ("numbers", ctypes.c_float * 2),
    )


class TensorArgs(ctypes.Structure):
    """Arguments of a kernel for one tensor, as in merge.hpp."""

    _fields_ = (
        ("base", ctypes.c_void_p),
        ("merged", ctypes.c_void_p),
        ("values", ctypes.POINTER(Value)),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("of_base", ctypes.c_float),
        ("scale", ctypes.c_float),
    )


Coefficients: TypeAlias = tuple[float, torch.Tensor | None, torch.Tensor | None]
"""A coefficient, or fp32 [rows] of them, or fp32 [columns]."""


class Operand(NamedTuple):
    """One delta, with its coefficient and its mask. Tensors are contiguous."""

    full: torch.Tensor | None = None
    """An expert's tensor; or ..."""
    delta: torch.Tensor | None = None
    """... a delta, fp32; or ..."""
    b: torch.Tensor | None = None
    """... fp32 [rows, rank] and fp32 [rank, columns], whose product it is."""
    a: torch.Tensor | None = None
    weight: float = 1.0
    """As in `Coefficients`."""
    by_row: torch.Tensor | None = None
    by_column: torch.Tensor | None = None
    mask: Mask = Mask()

    @property
    def value(self) -> Value:
        """As kernels read it. Holds no tensor: the caller keeps them alive."""
        data = _address(self.delta) if self.full is None else _address(self.full, self.full.dtype)
        return Value(
            data,
            _address(self.b),
            _address(self.a),
            _address(self.by_row),
            _address(self.by_column),
            _address(self.mask.random_u16, torch.uint16),
            _address(self.mask.ranks, torch.uint8),
            self.mask.key,
            0 if self.a is None else len(self.a),
            self.mask.ends,
            self.weight,
            self.mask.numbers,
        )

    @property
    def kind(self) -> str | None:
        """What merge.hpp calls it; None: kernels do not know its dtype."""
        by_column = "true" if self.by_column is not None else "false"
        if self.full is None:
            return f"{'Delta' if self.b is None else 'LowRank'}<Keep::{self.mask.kind}, {by_column}>"
        stored = stored_as(self.full.dtype)
        return stored and f"Full<{stored}, Keep::{self.mask.kind}, {by_column}>"


@dataclass(frozen=True, eq=False, slots=True)
class Kernel:
    """An instance of a template."""

    call: Callable[..., None]
    address: int


def stored_as(dtype: torch.dtype) -> str | None:
    """Returns what merge.hpp calls a dtype; None: kernels do not know it."""
    return _STORED.get(dtype)


@cache
def kernel_of(compiler: str, headers: tuple[str, ...], parameters: str, body: str) -> Kernel | None:
    """Returns the kernel with this body, on top of these files; None, with a warning, if it cannot be made.

    Args:
        compiler: The C++ compiler.
        headers: Files of this folder.
        parameters: C++: pointers and 64-bit integers.
        body: C++.
    """
    texts = (Path(__file__).with_name(header).read_text() for header in headers)
    found = library(
        compiler, "\n".join([*texts, f'extern "C" void crossbreed_kernel({parameters}) {{\n  {body}\n}}\n'])
    )
    if found is None:
        return None
    call = found.crossbreed_kernel
    types = [ctypes.c_void_p if "*" in parameter else ctypes.c_int64 for parameter in parameters.split(",")]
    call.argtypes, call.restype = types, None
    address = ctypes.cast(call, ctypes.c_void_p).value
    assert address is not None, "a function that was found is somewhere"
    return Kernel(call, address)


def _address(tensor: torch.Tensor | None, dtype: torch.dtype = torch.float32) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous(), "kernels read elements in a row"
    assert tensor.dtype == dtype, f"kernels read {dtype}, not {tensor.dtype}"
    return tensor.data_ptr()
