"""The optimizer protocol: scores in, points out. An optimizer knows a box; it knows nothing of models.

Asks and tells are driven by the journal: replaying the same sequence of calls on a new optimizer of the same settings
must bring it to the same state. So all randomness comes from the generator it was built with, none from the clock.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from crossbreed.types import Outcome, Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The search space as an optimizer sees it."""

    low: Point
    high: Point

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything that an optimizer is built from."""

    box: Box
    num_objectives: int
    start: Point | None
    """A good point to start from (the best baseline, encoded), if there is one."""
    rng: np.random.Generator
    """The optimizer's own stream, spawned by name from the Spec's seed."""


class Optimizer(Protocol):
    """Ask, tell. Results may come late, in any order, or not OK: an optimizer never crashes on them."""

    in_order: ClassVar[bool]
    """Told in candidate order, and asks only on complete generations: the same trials with any number of workers."""

    def ask(self, number: int) -> Point | None:
        """Returns a point inside the box for candidate `number`, or None: nothing to ask until results come."""
        ...

    def tell(self, outcome: Outcome) -> None:
        """Takes the outcome of a candidate that was asked, once."""
        ...
