"""NSGA-III by Optuna: as NSGA-II, but survivors are spread over reference directions, for three objectives and more."""

from collections.abc import Sequence
from math import comb
from typing import Annotated, Literal

from optuna.samplers import NSGAIIISampler
from optuna.samplers.nsgaii import PolynomialMutation, SBXCrossover
from pydantic import Field

from crossbreed.errors import InputError
from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.genetic import Genetic, GeneticOptions, ToldGenerations
from crossbreed.optimizer.optuna_study import as_told
from crossbreed.optimizer.protocol import SearchInputs
from crossbreed.types import Box, Outcome

_MOST_DIVISIONS = 50
"""More bring nothing: with one objective, any number of them is one direction."""


class Nsga3Options(GeneticOptions):
    """Options of `nsga3`."""

    divisions: Annotated[int, Field(ge=1)] | None = None
    """Steps between reference directions along each objective; default: as many as give no more directions than the
    population has members, which is how the paper sizes populations (Optuna's own default is 3)."""


class Nsga3Config(OptimizerConfig):
    """NSGA-III, for three objectives and more."""

    kind: Literal["nsga3"] = "nsga3"
    options: Nsga3Options = Nsga3Options()

    @property
    def reads_violations(self) -> bool:
        """True: Optuna dominates by them."""
        return True


class Nsga3(Genetic):
    """A population of the least dominated points near each reference direction, crossed (SBX) and mutated (polynomial).

    An INVALID or STOPPED candidate breaks a constraint of its own, more than any other is broken.
    """

    def __init__(self, inputs: SearchInputs, options: Nsga3Options | None = None) -> None:
        """Breeds the first generation.

        Raises:
            InputError: the population is too small for so many objectives.
        """
        options = options or Nsga3Options()
        divisions = options.divisions or _most_divisions(inputs.num_objectives, options.population)
        super().__init__(
            inputs,
            options,
            levels=inputs.box.levels,
            make_sampler=lambda seed: _Sampler(
                population_size=options.population,
                crossover=SBXCrossover(),
                mutation=PolynomialMutation(),
                dividing_parameter=divisions,
                seed=seed,
            ),
        )

    def _as_told(self, outcome: Outcome) -> tuple[Sequence[float], Sequence[float]]:
        return as_told(outcome, num_objectives=self._num_objectives, num_constraints=self._num_constraints)


class _Sampler(ToldGenerations, NSGAIIISampler):  # type: ignore[misc]  # optuna has no types
    """Optuna's sampler that is told its generations."""


def _most_divisions(num_objectives: int, population: int) -> int:
    """Returns the largest number of steps that gives at most `population` directions.

    >>> _most_divisions(3, 91), _most_divisions(2, 20)
    (12, 19)
    """
    fitting = [n for n in range(1, _MOST_DIVISIONS) if comb(num_objectives + n - 1, n) <= population]
    if not fitting:
        raise InputError(
            "a generation of `nsga3` has a member for each objective at least",
            expected=f"a population of {num_objectives} or more",
            got=f"population: {population}",
            where="optimizer.options.population",
            fix=f"set `population: {2 * num_objectives}`, or fewer `fitness.objectives`",
        )
    return max(fitting)


PART = OptimizerPart(
    config=Nsga3Config,
    make=lambda inputs, config: Nsga3(inputs, config.options),
    searches=Box,
    paper="doi 10.1109/TEVC.2013.2281535",
)
