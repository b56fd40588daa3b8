"""A process that merges again and again keeps the memory that it has freed.

glibc gives large blocks back to the kernel as soon as they are freed, and gets them again page by page, zeroed: for
merged tensors that costs as much as the merge itself.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Of mallopt(3)."""


def keep_freed_memory(num_bytes: int = 1 << 30) -> None:
    """Makes malloc serve everything from its heap, and keep up to `num_bytes` at the heap's end.

    For a process of one's own: a worker, a benchmark. Does nothing where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, num_bytes)
