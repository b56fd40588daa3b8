"""Checkpoints are written beside the engine's thread, which lends its sources for a moment at a time.

The tensors of a merge are made on the engine's thread, in slices, so that others are answered in between; hashing,
writing and reading back is done here. One checkpoint is written at a time, and once: who asks for it again meanwhile
waits for the same.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from crossbreed.fitness import wire
from crossbreed.service.engine_thread import EngineThread
from crossbreed.service.refusals import Refusal
from crossbreed.types import WeightStream

if TYPE_CHECKING:
    import torch

ITSELF, BESIDE = "", " "
"""Owners of the service's own work, checkpoints and others: no client has these names, and neither fills up the other's
queue.
"""
SLICE_S = 0.25
"""Seconds after which a slice of work ends, when its tensor is done."""
_SLICE_BYTES = 1 << 28
_MOST_WAITING = 32
_FULL_RETRY_S = 30.0


class Writer:
    """A thread, and what it has to write."""

    def __init__(self) -> None:
        """Begins nothing yet."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._writing: dict[str, Future[str]] = {}
        self._lock = Lock()

    def write(self, name: str, work: Callable[[], str]) -> "Future[str]":
        """Has something written under a name, if it is not being written.

        Raises:
            Refusal: too much waits.
        """
        with self._lock:
            self._writing = {key: future for key, future in self._writing.items() if not future.done()}
            if name not in self._writing:
                if len(self._writing) >= _MOST_WAITING:
                    message = "too many checkpoints wait to be written"
                    raise Refusal(503, message, code=wire.OVERLOADED, retry_after_s=_FULL_RETRY_S)
                self._writing[name] = self._thread.submit(work)
            return self._writing[name]

    def stop(self) -> None:
        """Writes nothing more; what is being written ends with its source, the engine's thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def in_slices(engine: EngineThread, make: Callable[[], WeightStream], *, seconds: float = SLICE_S) -> WeightStream:
    """Yields a stream that is made on the engine's thread, some tensors at a time: for so long, and one at least."""
    stream = engine.submit_aside(make, owner=ITSELF).result()
    while part := engine.submit_aside(partial(_slice, stream, seconds), owner=ITSELF).result():
        yield from part


def _slice(stream: WeightStream, seconds: float) -> list[tuple[str, "torch.Tensor"]]:
    part, size, until_s = list[tuple[str, "torch.Tensor"]](), 0, monotonic() + seconds
    for name, tensor in stream:
        part.append((name, tensor))
        size += tensor.nbytes
        if size >= _SLICE_BYTES or monotonic() >= until_s:
            break
    return part
