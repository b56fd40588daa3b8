"""Building very many values at once without Python's cyclic garbage collector.

It looks through all values again whenever their number has grown by a part: in vain, for records and what is folded
from them have no cycles, and for longer than a journal takes to be read.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Pauses the collector, if it was not paused before."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
