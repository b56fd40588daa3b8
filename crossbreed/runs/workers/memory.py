"""Keeping freed memory in processes that merge repeatedly.

glibc returns large blocks to the kernel as soon as they are freed, and gets them back page by page, zeroed: for merged
tensors that costs as much as the merge itself.
"""

import ctypes

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
