"""Deadlines: how long a start or an answer may take before its worker counts as hung."""

from collections import deque
from statistics import median

MIN_S = 600.0
"""The shortest deadline that is learnt."""
UNKNOWN_S = 7200.0
"""The deadline while too few have finished to learn one."""
_FACTOR, _ENOUGH, _REMEMBERED = 20, 3, 101


class Deadlines:
    """Deadlines by phase (`start`, or a split): the one that was set, or 20 times the median so far."""

    def __init__(self, fixed_s: float | None = None) -> None:
        """Starts without experience.

        Args:
            fixed_s: The deadline of every phase; None: learnt.
        """
        self._fixed_s = fixed_s
        self._took: dict[str, deque[float]] = {}

    def took(self, phase: str, seconds: float) -> None:
        """Learns from a start or an answer that came."""
        self._took.setdefault(phase, deque(maxlen=_REMEMBERED)).append(seconds)

    def of(self, phase: str) -> float:
        """Returns the seconds after which a start or an answer is given up."""
        if self._fixed_s is not None:
            return self._fixed_s
        took = self._took.get(phase, ())
        learnt = _FACTOR * median(took) if took else 0.0
        return max(MIN_S if len(took) >= _ENOUGH else UNKNOWN_S, learnt)
