"""Who is next: requests for the model that the engine holds, unless one for another has waited too long."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")
ANY = ""
"""The key of items that can be taken whatever key is held, and leave it."""


class Full(Exception):
    """An owner has too many waiting."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    owner: str
    item: T
    since_s: float


class FairQueue(Generic[T]):
    """Items by key. Changing the key costs, so equal keys are taken together; waiting is bounded.

    An item waits at most `patience_s` for items of other keys that came later, and then for one of each key whose first
    item has waited longer. Not for several threads at once.

    >>> queue = FairQueue[str](bound=9, patience_s=2.0, clock=lambda: 0.0)
    >>> for key, item in ("a", "a1"), ("b", "b1"), ("a", "a2"):
    ...     queue.put(key, item, owner="alice")
    >>> [queue.take("a") for _ in range(4)]
    ['a1', 'a2', 'b1', None]
    """

    def __init__(self, *, bound: int, patience_s: float, clock: Callable[[], float] = monotonic) -> None:
        """Begins empty.

        Args:
            bound: Most items of one owner.
            patience_s: How long an item waits for later ones of the key that is held.
            clock: Tells the time in seconds.
        """
        self._bound, self._patience_s, self._clock = bound, patience_s, clock
        self._waiting: dict[str, deque[_Waiting[T]]] = {}
        self._of_owner: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._of_owner.total()

    def put(self, key: str, item: T, *, owner: str) -> None:
        """Appends an item.

        Raises:
            Full: the owner's items are as many as may wait.
        """
        if self._of_owner[owner] >= self._bound:
            raise Full
        self._of_owner[owner] += 1
        self._waiting.setdefault(key, deque()).append(_Waiting(owner, item, self._clock()))

    def take(self, held: str | None) -> T | None:
        """Returns the next item, while `held` is the key that costs nothing; None if there is none."""
        if not self._waiting:
            return None
        oldest = min(self._waiting, key=lambda key: self._waiting[key][0].since_s)
        is_patient = self._clock() - self._waiting[oldest][0].since_s <= self._patience_s
        costless = [key for key in (held, ANY) if key is not None and key in self._waiting]
        key = min(costless, key=lambda key: self._waiting[key][0].since_s) if costless and is_patient else oldest
        found = self._waiting[key].popleft()
        if not self._waiting[key]:
            del self._waiting[key]
        self._of_owner[found.owner] -= 1
        if not self._of_owner[found.owner]:
            del self._of_owner[found.owner]
        return found.item
