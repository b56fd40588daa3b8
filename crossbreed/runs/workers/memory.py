"""Keeping freed memory in processes that merge repeatedly, and giving it back in others.

glibc returns large blocks to the kernel as soon as they are freed, and gets them back page by page, zeroed: for merged
tensors that costs as much as the merge itself.
"""

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""


def keep_freed_memory(num_bytes: int = 1 << 30) -> None:
    """Makes malloc serve all blocks from its heap, and keep up to `num_bytes` free at the heap's end.

    For dedicated processes: a worker, a benchmark. Does nothing with a C library other than glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, num_bytes)


def return_freed_memory() -> None:
    """Gives the kernel back what is free, in the middle of malloc's heap too: a closed model's tensors, for example.

    glibc keeps blocks of up to 32 MB there once some of that size were freed. Nothing with another C library.
    """
    gc.collect()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
