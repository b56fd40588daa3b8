"""Optuna's genetic samplers, asked by generations: what `nsga2` and `nsga3` share."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from pydantic import Field

from crossbreed.optimizer.generation import Generation, Generational
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.optuna_study import Axes, constrain, new_study
from crossbreed.optimizer.protocol import SearchInputs
from crossbreed.optimizer.silence_optuna import silence_optuna
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Levels, Outcome, Point, Status


class GeneticOptions(Options):
    """Options of a genetic search."""

    population: Annotated[int, Field(ge=4)] = 20
    """Candidates per generation, and how many survive it."""
    spread: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Standard deviation of the first generation around the start, as a fraction of each coordinate's range; of a
    coordinate of alternatives, the chance that it is another than the start's."""


class ToldGenerations(BaseSampler):  # type: ignore[misc]  # optuna has no types
    """Beside a genetic sampler of Optuna, tells it its generations.

    Optuna's own looks for them in all trials, for each candidate.
    """

    completed: list[FrozenTrial]
    """The trials of this generation that have values."""

    def __init__(self, **settings: Any) -> None:  # those of the sampler
        super().__init__(**settings)
        self.completed, self._last = [], list[FrozenTrial]()
        self._generation, self._parents = 0, list[FrozenTrial]()
        self._is_selected = True

    def next_generation(self) -> None:
        """Begins one, with the completed trials as its last."""
        self._generation += 1
        self._last, self.completed = sorted(self.completed, key=lambda trial: trial.number), []
        self._is_selected = False

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        """Returns the generation that trials are asked of."""
        return self._generation

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Returns the trials of the last generation."""
        assert generation == self._generation - 1, "parents are selected once a generation is complete"
        return self._last

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Returns the parents of this generation, or, while these are selected, those of the last.

        As Optuna does: in the order of the selection at first, then in that of their numbers.
        """
        if generation < self._generation or self._is_selected:
            return self._parents
        selected: list[Any] = self.select_parent(study, generation)
        self._parents, self._is_selected = sorted(selected, key=lambda trial: trial.number), True
        return selected


class Genetic(Generational):
    """A population of the best points, crossed and mutated.

    The first generation is `inputs.start` and normal draws around it, or uniform without a start: with many groups,
    uniform coefficients all give bad models, and a small budget never gets away from them.
    A FAILED candidate is replaced by another of the same generation.
    """

    def __init__(
        self,
        inputs: SearchInputs,
        options: GeneticOptions,
        *,
        levels: Mapping[int, Levels],
        make_sampler: Callable[[int], ToldGenerations],
    ) -> None:
        """Breeds the first generation.

        Args:
            inputs: A box.
            options: The size of the population, and how it begins.
            levels: The coordinates that are bred as integers or alternatives.
            make_sampler: Makes the sampler of a seed.
        """
        self._box, self._rng, self._spread = inputs.box, inputs.rng, options.spread
        self._start = None if inputs.start is None else to_unit(inputs.box, inputs.start)
        self._num_objectives, self._population = inputs.num_objectives, options.population
        self._num_constraints, self._levels = inputs.num_constraints, levels
        self._axes = Axes(inputs.box.dim, levels=levels)
        with silence_optuna():
            self._sampler = make_sampler(int(self._rng.integers(2**32)))
            self._study = new_study(self._sampler, num_objectives=inputs.num_objectives)
        self._num_asked = self._num_completed = 0
        self._breed()

    @abstractmethod
    def _as_told(self, outcome: Outcome) -> tuple[Sequence[float], Sequence[float]]:
        """Returns the values and the excesses that the study is told of an outcome that did not FAIL."""

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        for index, (trial, told) in enumerate(zip(self._trials, outcomes, strict=True)):
            if told.status is Status.FAILED:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._complete(trial, self._taken.get(index), told)
                self._num_completed += 1
        self._breed()

    def _take(self, index: int, recorded: Point) -> None:
        self._taken[index] = self._axes.params(to_unit(self._box, recorded))

    def _complete(self, trial: Trial, taken: Mapping[str, float | int] | None, told: Outcome) -> None:
        """Tells the study the values of a trial, or of a recorded one of the same generation in its place."""
        values, excesses = self._as_told(told)
        if taken is None:
            constrain(trial, excesses)
            completed = self._study.tell(trial, values)
        else:
            self._study.tell(trial, state=TrialState.FAIL)
            made = create_trial(params=dict(taken), distributions=dict(self._axes.distributions), values=values)
            constrain(made, excesses)
            self._study.add_trial(made)
            completed = self._study.get_trials(deepcopy=False)[-1]
        self._sampler.completed.append(completed)

    def _breed(self) -> None:
        """Asks for the missing candidates: a whole new generation, or replacements of those that FAILED."""
        num_lacking = self._population - self._num_completed % self._population
        if len(self._sampler.completed) == self._population:
            self._sampler.next_generation()
        self._taken: dict[int, Mapping[str, float | int]] = {}
        """Index -> the parameters that a journal has in the place of this machine's."""
        self._trials = [self._ask_trial() for _ in range(num_lacking)]
        units = [self._axes.unit(trial.params) for trial in self._trials]
        self._generation = Generation([from_unit(self._box, unit) for unit in units])

    @property
    def _is_around_start(self) -> bool:
        """Whether this is the first generation, around a start."""
        return self._start is not None and self._num_completed < self._population

    def _ask_trial(self) -> Trial:
        if self._is_around_start and self._start is not None:
            unit = near(self._start, self._spread, self._levels, self._rng) if self._num_asked else self._start
            self._study.enqueue_trial(self._axes.params(unit))
        self._num_asked += 1
        return self._study.ask(self._axes.distributions)


def near(
    unit: NDArray[np.float64], spread: float, levels: Mapping[int, Levels], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Returns a normal draw around a point of the unit cube; alternatives change to any other with chance `spread`."""
    drawn = np.clip(unit + spread * rng.standard_normal(len(unit)), 0.0, 1.0)
    for index, one in levels.items():
        if not one.is_ordered:
            others = [level for level in range(one.count) if level != one.at(unit[index])]
            drawn[index] = one.middle(int(rng.choice(others))) if others and rng.random() < spread else unit[index]
    return drawn
