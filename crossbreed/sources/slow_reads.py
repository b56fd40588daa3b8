"""Whom to tell that a large file is being read in full, which takes seconds to minutes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias

_LARGE_BYTES = 100 << 20
"""Smaller files are read in a moment."""

Told: TypeAlias = Callable[[Path, int], None]
"""Called with a file and its size."""

_told: ContextVar[Told | None] = ContextVar("told", default=None)


@contextmanager
def telling_of_slow_reads(tell: Told) -> Iterator[None]:
    """Calls `tell` before each large file that is hashed in the block; one that the cache knows is not read."""
    token = _told.set(tell)
    try:
        yield
    finally:
        _told.reset(token)


def about_to_read(path: Path, num_bytes: int) -> None:
    """Tells that a file is read in full now."""
    tell = _told.get()
    if tell is not None and num_bytes >= _LARGE_BYTES:
        tell(path, num_bytes)
