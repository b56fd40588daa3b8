"""NSGA-II by Optuna: breeds a population towards the whole Pareto front, for several objectives."""

import math
from collections.abc import Sequence
from typing import Literal

from optuna.samplers import NSGAIISampler
from optuna.samplers.nsgaii import PolynomialMutation, SBXCrossover

from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.generation import measured
from crossbreed.optimizer.genetic import Genetic, GeneticOptions, ToldGenerations
from crossbreed.optimizer.protocol import SearchInputs
from crossbreed.optimizer.unit_cube import declared_levels
from crossbreed.types import Box, Outcome


class Nsga2Options(GeneticOptions):
    """Options of `nsga2`."""


class Nsga2Config(OptimizerConfig):
    """NSGA-II, for several objectives."""

    kind: Literal["nsga2"] = "nsga2"
    options: Nsga2Options = Nsga2Options()

    @property
    def reads_violations(self) -> bool:
        """True: Optuna dominates by them."""
        return True


class Nsga2(Genetic):
    """A population of the least dominated points, crossed (SBX) and mutated (polynomial mutation).

    An INVALID or STOPPED candidate is dominated by all.
    """

    def __init__(self, inputs: SearchInputs, options: Nsga2Options | None = None) -> None:
        """Breeds the first generation."""
        options = options or Nsga2Options()
        super().__init__(
            inputs,
            options,
            levels=declared_levels(inputs.box),
            make_sampler=lambda seed: _Sampler(
                population_size=options.population, crossover=SBXCrossover(), mutation=PolynomialMutation(), seed=seed
            ),
        )

    def _as_told(self, outcome: Outcome) -> tuple[Sequence[float], Sequence[float]]:
        values = measured(outcome) or (-math.inf,) * self._num_objectives
        return values, (math.inf,) * self._num_constraints if outcome.excesses is None else outcome.excesses


class _Sampler(ToldGenerations, NSGAIISampler):  # type: ignore[misc]  # optuna has no types
    """Optuna's sampler that is told its generations."""


PART = OptimizerPart(
    config=Nsga2Config,
    make=lambda inputs, config: Nsga2(inputs, config.options),
    searches=Box,
    paper="doi 10.1109/4235.996017",
)
