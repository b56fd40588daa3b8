"""A box and its outcomes as Optuna has them: distributions, studies, and constraints by which samplers rank trials."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from numpy.typing import ArrayLike, NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from crossbreed.optimizer.generation import measured
from crossbreed.types import Levels, Outcome


class Axes:
    """Coordinates of the unit cube as parameters of trials, each named by its index: numbers, integers, categories."""

    def __init__(self, dim: int, *, levels: Mapping[int, Levels], of: Sequence[int] | None = None) -> None:
        """Describes the coordinates `of` (all of them, by default); those that have levels are no numbers."""
        self._dim, self._levels = dim, levels
        self._indices = range(dim) if of is None else of
        self.distributions: dict[str, BaseDistribution] = {str(i): self._distribution(i) for i in self._indices}

    def params(self, unit: ArrayLike) -> dict[str, float | int]:
        """Returns the parameters of a point."""
        found = np.asarray(unit)
        return {str(i): self._level(i, float(found[i])) for i in self._indices}

    def unit(self, params: Mapping[str, float | int]) -> NDArray[np.float64]:
        """Returns the point of some parameters; a coordinate without one is at 0.5."""
        unit = np.full(self._dim, 0.5)
        for i in self._indices:
            value = params[str(i)]
            unit[i] = self._levels[i].middle(int(value)) if i in self._levels else value
        return unit

    def _distribution(self, index: int) -> BaseDistribution:
        if (levels := self._levels.get(index)) is None:
            return FloatDistribution(0.0, 1.0)
        return (
            IntDistribution(0, levels.count - 1) if levels.is_ordered else CategoricalDistribution(range(levels.count))
        )

    def _level(self, index: int, share: float) -> float | int:
        return self._levels[index].at(share) if index in self._levels else share


def new_study(sampler: BaseSampler, *, num_objectives: int) -> Study:
    """Returns an empty study in memory, which maximises all objectives."""
    return optuna.create_study(study_name="crossbreed", sampler=sampler, directions=["maximize"] * num_objectives)


def constrain(trial: Trial | FrozenTrial, excesses: Sequence[float]) -> None:
    """Says of a trial, before it is told, how far outside each constraint it is: above 0, it breaks it."""
    for index, excess in enumerate(excesses):
        trial.set_constraint(str(index), excess)


def as_told(outcome: Outcome, *, num_objectives: int, num_constraints: int) -> tuple[Sequence[float], Sequence[float]]:
    """Returns values and excesses of an outcome, for samplers that cannot compute with infinite values.

    That it was measured is one more constraint, so that what was not comes after all that was.
    """
    if (values := measured(outcome)) is None:
        return (0.0,) * num_objectives, (math.inf,) * (num_constraints + 1)
    return values, (*(outcome.excesses or ()), 0.0)
