"""NSGA-II by Optuna: breeds a population towards the whole Pareto front, for several objectives."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import NSGAIISampler
from optuna.samplers.nsgaii import PolynomialMutation, SBXCrossover
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from pydantic import Field

from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.generation import Generation, Generational, measured
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.optuna_constraints import constrain
from crossbreed.optimizer.protocol import SearchInputs
from crossbreed.optimizer.silence_optuna import silence_optuna
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Box, Outcome, Point, Status


class Nsga2Options(Options):
    """Options of `nsga2`."""

    population: Annotated[int, Field(ge=4)] = 20
    """Candidates per generation, and how many survive it."""
    spread: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Standard deviation of the first generation around the start, as a fraction of each coordinate's range."""


class Nsga2Config(OptimizerConfig):
    """NSGA-II, for several objectives."""

    kind: Literal["nsga2"] = "nsga2"
    options: Nsga2Options = Nsga2Options()

    @property
    def reads_violations(self) -> bool:
        """True: Optuna dominates by them."""
        return True


class Nsga2(Generational):
    """A population of the least dominated points, crossed (SBX) and mutated (polynomial mutation).

    The first generation is `inputs.start` and normal draws around it, or uniform without a start: with many groups,
    uniform coefficients all give bad models, and a small budget never gets away from them.
    A FAILED candidate is replaced by another of the same generation; an INVALID or STOPPED one is dominated by all.
    """

    def __init__(self, inputs: SearchInputs, options: Nsga2Options | None = None) -> None:
        options = options or Nsga2Options()
        self._box, self._rng, self._spread = inputs.box, inputs.rng, options.spread
        self._start = None if inputs.start is None else to_unit(inputs.box, inputs.start)
        self._num_objectives, self._population = inputs.num_objectives, options.population
        self._num_constraints = inputs.num_constraints
        self._axes = {str(i): FloatDistribution(0.0, 1.0) for i in range(inputs.box.dim)}
        with silence_optuna():
            self._sampler = _Sampler(
                population_size=options.population,
                crossover=SBXCrossover(),
                mutation=PolynomialMutation(),
                seed=int(self._rng.integers(2**32)),
            )
            self._study = optuna.create_study(
                study_name="crossbreed", sampler=self._sampler, directions=["maximize"] * inputs.num_objectives
            )
        self._num_asked = self._num_completed = 0
        self._breed()

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        for index, (trial, told) in enumerate(zip(self._trials, outcomes, strict=True)):
            if told.status is Status.FAILED:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._complete(trial, self._taken.get(index), told)
                self._num_completed += 1
        self._breed()

    def _take(self, index: int, recorded: Point) -> None:
        self._taken[index] = to_unit(self._box, recorded).tolist()

    def _complete(self, trial: Trial, taken: Sequence[float] | None, told: Outcome) -> None:
        """Tells the study the values of a trial, or of a recorded one of the same generation in its place."""
        values = measured(told) or (-math.inf,) * self._num_objectives
        excesses = (math.inf,) * self._num_constraints if told.excesses is None else told.excesses
        if taken is None:
            constrain(trial, excesses)
            completed = self._study.tell(trial, values)
        else:
            self._study.tell(trial, state=TrialState.FAIL)
            params = dict(zip(self._axes, taken, strict=True))
            made = create_trial(params=params, distributions=dict(self._axes), values=values)
            constrain(made, excesses)
            self._study.add_trial(made)
            completed = self._study.get_trials(deepcopy=False)[-1]
        self._sampler.completed.append(completed)

    def _breed(self) -> None:
        """Asks for the missing candidates: a whole new generation, or replacements of those that FAILED."""
        num_lacking = self._population - self._num_completed % self._population
        if len(self._sampler.completed) == self._population:
            self._sampler.next_generation()
        self._taken: dict[int, list[float]] = {}
        """Index -> the point of the unit cube that a journal has in the place of this machine's."""
        self._trials = [self._ask_trial() for _ in range(num_lacking)]
        units = [[trial.params[name] for name in self._axes] for trial in self._trials]
        self._generation = Generation([from_unit(self._box, unit) for unit in units])

    @property
    def _is_around_start(self) -> bool:
        """Whether this is the first generation, around a start."""
        return self._start is not None and self._num_completed < self._population

    def _ask_trial(self) -> Trial:
        if self._is_around_start and self._start is not None:
            step = self._spread * self._rng.standard_normal(self._box.dim) if self._num_asked else 0.0
            unit = np.clip(self._start + step, 0.0, 1.0)
            self._study.enqueue_trial(dict(zip(self._axes, map(float, unit), strict=True)))
        self._num_asked += 1
        return self._study.ask(self._axes)


class _Sampler(NSGAIISampler):  # type: ignore[misc]  # optuna has no types
    """Optuna's sampler that is told its generations: Optuna's own looks for them in all trials, for each candidate."""

    completed: list[FrozenTrial]
    """The trials of this generation that have values."""

    def __init__(
        self, *, population_size: int, crossover: SBXCrossover, mutation: PolynomialMutation, seed: int
    ) -> None:
        super().__init__(population_size=population_size, crossover=crossover, mutation=mutation, seed=seed)
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


PART = OptimizerPart(
    config=Nsga2Config,
    make=lambda inputs, config: Nsga2(inputs, config.options),
    searches=Box,
    paper="doi 10.1109/4235.996017",
)
