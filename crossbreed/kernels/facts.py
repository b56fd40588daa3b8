"""What was found out about the sources once, and holds for every candidate: cuts, Grams, ranks, singular vectors.

A search changes coefficients, never sources. So whatever depends on sources alone (and on a parameter that is seldom
changed) is found once in a worker's life and looked up afterwards. Keys carry content hashes: a fact cannot be of
another expert than it says.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")

BUDGET_BYTES = 4 << 30
"""What is kept by default; beyond it the facts that were not asked for longest are found again when needed."""


class Facts:
    """A cache by key, bounded in bytes. Not for several threads.

    >>> facts = Facts()
    >>> facts.get(("square", 3), lambda: 9), facts.get(("square", 3), lambda: 0)
    (9, 9)
    """

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget, self._used = budget_bytes, 0
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: tuple[Hashable, ...], find: Callable[[], T]) -> T:
        """Returns the fact called `key`, found by `find` if it is not held. A pure function of the key."""
        if key in self._held:
            self._held.move_to_end(key)
        else:
            fact = find()
            self._held[key] = fact, _size(fact)
            self._used += _size(fact)
            while self._used > self._budget and len(self._held) > 1:
                self._used -= self._held.popitem(last=False)[1][1]
        found: T = self._held[key][0]
        return found


def _size(fact: object) -> int:
    if isinstance(fact, torch.Tensor | np.ndarray):
        return int(fact.nbytes)
    if isinstance(fact, tuple | list):
        return 64 + sum(_size(part) for part in fact)
    return 64
