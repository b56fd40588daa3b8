"""Threads for kernels: `Threads` runs compiled ones without Python's lock, `in_parallel` any function."""

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

from crossbreed.kernels.native.compiling import library
from crossbreed.kernels.native.operands import Kernel, TensorArgs

T = TypeVar("T")

_CPUS = os.sched_getaffinity(0)
"""Taken before an engine binds the main thread, and what it starts, to one of them."""
_PROCESS = os.getpid()
_PART = 1 << 20
"""Elements that a thread merges at least."""
_PART_TO_FIND = 1 << 16
"""Elements that a thread is given at least by `in_parallel`, whose work takes longer."""
_SMALL = 1 << 13
"""Elements up to which to wake a thread takes longer than to do its work."""


def is_on_cpu(tensor: torch.Tensor) -> bool:
    """Whether a tensor is where these threads can read it."""
    return tensor.is_cpu


def in_parallel(work: Callable[..., T], length: int, size: int, *more: Sequence[object]) -> list[T]:
    """Does `work(first, last)` on parts of 0 ... length, which has `size` elements: a part for each thread, if it pays.

    Returns the results in order. `more` has an argument for each part, as the results of an earlier call with the same
    lengths have.
    """
    number = torch.get_num_threads()
    num_parts = max(1, min(length, number, size // _PART_TO_FIND))
    ends = [length * part // num_parts for part in range(num_parts + 1)]
    return list(_pool(os.getpid(), number).map(work, ends[:-1], ends[1:], *more))


@cache
def _pool(process: int, number: int) -> ThreadPoolExecutor:
    """A forked child makes its own."""
    return ThreadPoolExecutor(number, "merge", initializer=lambda: os.sched_setaffinity(0, _CPUS))


class _Work(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("batch", ctypes.c_void_p),
        ("batch_size", ctypes.c_int64),
        ("bad", ctypes.c_void_p),
        ("num_parts_left", ctypes.c_int64),
    )


class Begun:
    """Work in progress on threads. It holds what they read and write until they are done."""

    def __init__(self, threads: ctypes.CDLL, kernel: Kernel, batch: "ctypes.Array[TensorArgs]", held: object) -> None:
        self._threads, self._kernel, self._batch, self._held, self._is_done = threads, kernel, batch, held, True
        self._bad = (ctypes.c_uint8 * len(batch))()

    def begin(self, length: int, size: int) -> "Begun":
        """Gives parts of 0 ... length to the threads, or does it all if it is small."""
        if size <= _SMALL:
            self._kernel.call(self._batch, len(self._batch), 0, length, self._bad)
            return self
        batch, bad = ctypes.addressof(self._batch), ctypes.addressof(self._bad)
        self._work = _Work(self._kernel.address, batch, len(self._batch), bad)
        self._is_done = False
        self._threads.crossbreed_begin(ctypes.byref(self._work), length, max(1, min(length, size // _PART)))
        return self

    def wait(self, place: int = 0) -> bool:
        """Returns, when all is done, whether the result at a place of the batch is finite."""
        if not self._is_done:
            self._threads.crossbreed_wait(ctypes.byref(self._work))
            self._is_done = True
        return not self._bad[place]

    def __del__(self) -> None:
        self.wait()


def threads(compiler: str, number: int) -> ctypes.CDLL | None:
    """Returns the library that runs the threads; None in a forked child, which inherits no threads to wait for.

    All numbers that a process asks for share the largest.
    """
    return None if os.getpid() != _PROCESS else _threads(compiler, number)


@cache
def _threads(compiler: str, number: int) -> ctypes.CDLL | None:
    found = library(compiler, Path(__file__).with_name("threads.cpp").read_text())
    if found is None:
        return None
    found.crossbreed_begin.argtypes, found.crossbreed_begin.restype = (ctypes.c_void_p, *[ctypes.c_int64] * 2), None
    found.crossbreed_wait.argtypes, found.crossbreed_wait.restype = (ctypes.c_void_p,), None
    bound = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _CPUS)  # new threads inherit it
    running = found.crossbreed_have_threads(ctypes.c_int64(number))
    os.sched_setaffinity(0, bound)
    return found if running else None
