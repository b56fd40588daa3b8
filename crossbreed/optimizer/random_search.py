"""Uniform random search: the baseline that every optimizer has to beat."""

from typing import ClassVar, Literal

from crossbreed.config import Config
from crossbreed.optimizer.budget import BudgetConfig
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.protocol import Setting
from crossbreed.optimizer.unit_cube import from_unit
from crossbreed.types import Outcome, Point


class RandomOptions(Options):
    """None yet."""


class RandomConfig(Config):
    """Uniform random points of the box."""

    kind: Literal["random"] = "random"
    budget: BudgetConfig
    options: RandomOptions = RandomOptions()


class RandomSearch:
    """Draws uniform points, whatever the scores; it learns nothing, and ignores the start."""

    in_order: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self._box, self._rng = setting.box, setting.rng

    def ask(self, number: int) -> Point:
        """Returns the next point of the stream."""
        return from_unit(self._box, self._rng.random(self._box.dim))

    def tell(self, outcome: Outcome) -> None:
        """Learns nothing."""
