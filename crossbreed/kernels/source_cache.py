"""Values that depend on the sources alone: thresholds, inner products, ranks, singular vectors.

A search changes coefficients, never sources. So what depends on sources alone (and on a parameter that is seldom
changed) is found once in a worker's life and looked up afterwards. Keys carry content hashes, so that no value is taken
for that of another expert.
"""

import random
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")

BUDGET_BYTES = 4 << 30
"""What is kept by default. Beyond it values are dropped at random, and found again when needed: a search walks the
tensors in circles, and dropping the oldest would drop each one just before it is looked up."""


class SourceCache:
    """A cache by key, bounded in bytes. Not for several threads.

    >>> cache = SourceCache()
    >>> cache.get(("square", 3), lambda: 9), cache.get(("square", 3), lambda: 0)
    (9, 9)
    """

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget, self._used = budget_bytes, 0
        self._held: dict[Hashable, tuple[Any, int]] = {}
        self._asked: set[Hashable] = set()
        self._random = random.Random(0)  # decides what is found twice, not what is found

    def get(self, key: tuple[Hashable, ...], find: Callable[[], T]) -> T:
        """Returns the value called `key`, found by `find` (a pure function of the key) if it is not held."""
        if key in self._held:
            found: T = self._held[key][0]
            return found
        made = find()
        size = _num_bytes(made)
        while self._held and self._used + size > self._budget:
            self._used -= self._held.pop(self._random.choice(list(self._held)))[1]
        self._held[key] = made, size
        self._used += size
        return made

    def get_repeated(self, key: tuple[Hashable, ...], num_bytes: int, find: Callable[[], T]) -> T | None:
        """Returns a value that one can do without, from the second time on that it is looked up, if there is room.

        So a merge that is made once finds nothing in vain, and what costs little drops nothing that costs more.
        """
        if key not in self._asked:
            self._asked.add(key)
            return None
        return self.get(key, find) if key in self._held or self._used + num_bytes <= self._budget else None


def _num_bytes(value: object) -> int:
    if isinstance(value, torch.Tensor | np.ndarray):
        return int(value.nbytes)
    if isinstance(value, tuple | list):
        return 64 + sum(_num_bytes(part) for part in value)
    return 64
