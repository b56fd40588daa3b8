"""Uniform random search: the baseline that every optimizer has to beat."""

from typing import ClassVar, Literal

from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.protocol import SearchInputs
from crossbreed.optimizer.unit_cube import from_unit
from crossbreed.types import Box, Outcome, Point, Proposal


class RandomOptions(Options):
    """Options of `random`: none yet."""


class RandomConfig(OptimizerConfig):
    """Uniform random points of the box."""

    kind: Literal["random"] = "random"
    options: RandomOptions = RandomOptions()


class RandomSearch:
    """Draws uniform points; ignores scores and the start."""

    in_order: ClassVar[bool] = True

    def __init__(self, inputs: SearchInputs) -> None:
        self._box, self._rng = inputs.box, inputs.rng

    def ask(self, number: int) -> Point:
        """Returns the next point of the stream."""
        return from_unit(self._box, self._rng.random(self._box.dim))

    def replay(self, number: int, recorded: Proposal) -> Point:
        """Draws the point again: the stream is all there is to restore."""
        return self.ask(number)

    def tell(self, outcome: Outcome) -> None:
        """Ignores the outcome."""


PART = OptimizerPart(config=RandomConfig, make=lambda inputs, _: RandomSearch(inputs), searches=Box)
