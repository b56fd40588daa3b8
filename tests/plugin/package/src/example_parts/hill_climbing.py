"""Hill climbing: a random step from the best point so far."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from crossbreed.optimizer import OptimizerConfig, OptimizerPart, Options, SearchInputs, check_one_objective
from crossbreed.types import Box, Outcome, Point, Status


class HillClimbingOptions(Options):
    """Options of `hill_climbing`."""

    step: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Standard deviation of the first step, as a share of each coordinate's range."""


class HillClimbingConfig(OptimizerConfig):
    """Hill climbing, for one objective: steps that grow when one helps and shrink when none does."""

    kind: Literal["hill_climbing"] = "hill_climbing"
    options: HillClimbingOptions = HillClimbingOptions()


class HillClimbing:
    """Takes all randomness from `inputs.rng` and nothing from the clock, so that a journal can be replayed."""

    in_order: ClassVar[bool] = False

    def __init__(self, inputs: SearchInputs, options: HillClimbingOptions | None = None) -> None:
        """Begins at the start, or in the middle of the box.

        Raises:
            InputError: there are several objectives.
        """
        check_one_objective(inputs, "hill_climbing")
        self._rng, self._step = inputs.rng, (options or HillClimbingOptions()).step
        self._low, self._high = np.array(inputs.box.low), np.array(inputs.box.high)
        self._best = (self._low + self._high) / 2 if inputs.start is None else np.array(inputs.start)
        self._best_value = -np.inf
        self._is_first = True
        self._asked: dict[int, Point] = {}

    def ask(self, number: int) -> Point:
        """Returns the start, then points around the best one."""
        step = self._step * (self._high - self._low) * self._rng.standard_normal(len(self._best))
        point = np.clip(self._best + (0.0 if self._is_first else step), self._low, self._high)
        self._is_first = False
        self._asked[number] = tuple(map(float, point))
        return self._asked[number]

    def tell(self, outcome: Outcome) -> None:
        """Moves to a better point. A candidate that FAILED was not measured, and changes nothing."""
        point = self._asked.pop(outcome.number)
        if outcome.status is Status.FAILED:
            return
        value = outcome.values[0] if outcome.status is Status.OK and outcome.values else -np.inf
        if value > self._best_value:
            self._best, self._best_value, self._step = np.array(point), value, min(1.0, 1.5 * self._step)
        else:
            self._step = max(1e-6, 0.9 * self._step)


PART = OptimizerPart(
    config=HillClimbingConfig,
    make=lambda inputs, config: HillClimbing(inputs, config.options),
    searches=Box,
)
