"""Lets go of the pages of mapped tensors: who walks a model once need not hold all of it.

Pages of a mapped file count as the process's memory as long as they are mapped. Given back, they stay in the operating
system's cache, and the next reader maps them again.
"""

import ctypes
import mmap
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

import torch

_MADV_DONTNEED = 4


class MappedPages:
    """Files, as far as they are mapped now. Of other memory nothing is ever let go: it would be lost."""

    def __init__(self, files: Iterable[Path]) -> None:
        maps, names = Path("/proc/self/maps"), tuple(str(file.resolve()) for file in files)
        lines = maps.read_text().splitlines() if maps.is_file() else []
        spans = (line.split()[0].split("-") for line in lines if names and line.endswith(names))
        self._spans = sorted((int(start, 16), int(end, 16)) for start, end in spans)
        self._madvise = getattr(ctypes.CDLL(None), "madvise", None)

    def let_go(self, tensor: torch.Tensor) -> None:
        """Gives back the pages that are the tensor's alone, if it is mapped."""
        page = mmap.PAGESIZE
        start = -(-tensor.data_ptr() // page) * page
        end = (tensor.data_ptr() + tensor.nbytes) // page * page
        found = bisect_right(self._spans, (start, 1 << 64)) - 1
        if start < end and found >= 0 and end <= self._spans[found][1] and self._madvise is not None:
            self._madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)
