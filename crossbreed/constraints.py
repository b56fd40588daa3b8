"""Constraints as numbers: how far off a candidate is."""

import math
from collections.abc import Iterable


def violation_of(excesses: Iterable[float] | None) -> float:
    """Returns how far off constraints are, all together; infinite if that is not known."""
    return math.inf if excesses is None else math.fsum(max(0.0, excess) for excess in excesses)
