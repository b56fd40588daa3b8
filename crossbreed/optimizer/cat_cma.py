"""CatCMA with margin, by cmaes: numbers, integers and alternatives together, each in a distribution of its own.

Numbers and integers have one normal distribution, in which each integer keeps a least chance to change (the margin);
alternatives have a categorical one. Without either it is a CMA-ES, for which `cma_es` is the better tested.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crossbreed.errors import require
from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.cma_strategies import rank_losses
from crossbreed.optimizer.cmaes_solutions import solution_at
from crossbreed.optimizer.generation import Generation, Generational
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.protocol import SearchInputs, check_one_objective
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Box, Outcome, Point


class CatCmaOptions(Options):
    """Options of `cat_cma`."""

    sigma0: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Initial step size, as a fraction of each range; of a coordinate of alternatives, the chance that it is another
    than the start's. Without a start, all alternatives are equally likely."""
    popsize: Annotated[int, Field(ge=4)] | None = None
    """Candidates per generation; default 4 + 3 ln(coordinates)."""


class CatCmaConfig(OptimizerConfig):
    """CMA-ES of numbers, integers and alternatives, for one objective."""

    kind: Literal["cat_cma"] = "cat_cma"
    options: CatCmaOptions = CatCmaOptions()


class CatCma(Generational):
    """The distributions, started around `inputs.start` (or in the middle of the box, all alternatives alike).

    Only the order of scores counts; equal scores of a whole generation teach nothing. When cmaes finds that the normal
    distribution has converged, both begin again at the mean of the better half of the last generation, with twice the
    population, as `cma_es` does.
    """

    def __init__(self, inputs: SearchInputs, options: CatCmaOptions | None = None) -> None:
        """Samples the first generation.

        Raises:
            InputError: there are several objectives.
            MissingExtra: cmaes is not installed.
        """
        check_one_objective(inputs, "cat_cma")
        require("cmaes", extra="searches")
        self._box, self._rng, self._options = inputs.box, inputs.rng, options or CatCmaOptions()
        self._genes = _Genes(inputs.box)
        start = None if inputs.start is None else to_unit(inputs.box, inputs.start)
        self._strategy = self._begin(start, self._options.popsize)
        self._sample()

    def _begin(self, start: NDArray[np.float64] | None, popsize: int | None) -> Any:
        """Returns a new optimizer of cmaes; None where no coordinate has room."""
        from cmaes import CatCMAwM

        genes, sigma = self._genes, self._options.sigma0
        if not genes.num_open:
            return None
        middle = np.full(self._box.dim, 0.5) if start is None else start
        numbers, integers, _ = genes.values(middle)
        spans = np.array([1.0] * len(genes.numbers) + [count - 1.0 for count in genes.integers.values()])
        is_normal = bool(genes.numbers or genes.integers)
        return CatCMAwM(
            x_space=[[0.0, 1.0]] * len(genes.numbers) or None,
            z_space=[[*range(count)] for count in genes.integers.values()] or None,
            c_space=[*genes.alternatives.values()] or None,
            population_size=popsize,
            mean=np.concatenate((numbers, integers)) if is_normal else None,
            sigma=1.0,
            cov=np.diag((sigma * spans) ** 2) if is_normal else None,
            cat_param=genes.chances(start, sigma) if genes.alternatives else None,
            seed=int(self._rng.integers(2**32)),
        )

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        losses = rank_losses(outcomes)
        if self._strategy is not None and losses is not None and len(set(losses)) > 1:
            order = np.argsort(losses, stable=True)
            # ranks: cmaes scales a penalty by the spread of the middle half, which may be 0 where scores are equal
            told = [(self._solutions[index], float(rank)) for rank, index in enumerate(order)]
            self._strategy.tell(told)
            if (self._genes.numbers or self._genes.integers) and self._strategy.should_stop():
                better = [self._genes.unit(self._solutions[index]) for index in order[: len(order) // 2]]
                self._strategy = self._begin(self._centre(better), 2 * self._strategy.population_size)
        self._sample()

    def _centre(self, units: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Returns their mean; the alternatives are those of the first."""
        centre = np.mean(units, axis=0)
        for index in self._genes.alternatives:
            centre[index] = units[0][index]
        return np.asarray(centre)

    def _take(self, index: int, recorded: Point) -> None:
        if self._strategy is not None:
            values = self._genes.values(to_unit(self._box, recorded))
            self._solutions[index] = solution_at(self._solutions[index], *values)

    def _sample(self) -> None:
        if self._strategy is None:
            self._generation = Generation([from_unit(self._box, np.full(self._box.dim, 0.5))])
            return
        self._solutions = [self._strategy.ask() for _ in range(self._strategy.population_size)]
        units = [self._genes.unit(solution) for solution in self._solutions]
        self._generation = Generation([from_unit(self._box, unit) for unit in units])


class _Genes:
    """The coordinates of a box by what they are to cmaes; those without room are none of it."""

    def __init__(self, box: Box) -> None:
        self._box = box
        is_open = [low < high for low, high in zip(box.low, box.high, strict=True)]
        levels = {i: one for i, one in box.levels.items() if is_open[i]}
        self.numbers = [i for i in range(box.dim) if is_open[i] and i not in levels]
        self.integers = {i: one.count for i, one in levels.items() if one.is_ordered and one.count > 2}
        self.alternatives = {i: one.count for i, one in levels.items() if i not in self.integers and one.count > 1}
        self.num_open = len(self.numbers) + len(self.integers) + len(self.alternatives)

    def values(self, unit: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool]]:
        """Returns the numbers, the integers and the alternatives of a point of the unit cube."""
        levels = self._box.levels
        integers = np.array([float(levels[i].at(unit[i])) for i in self.integers])
        onehot = np.zeros((len(self.alternatives), max(self.alternatives.values(), default=0)), dtype=np.bool)
        for row, i in enumerate(self.alternatives):
            onehot[row, levels[i].at(unit[i])] = True
        return unit[self.numbers], integers, onehot

    def unit(self, solution: Any) -> NDArray[np.float64]:
        """Returns the point of the unit cube of a solution."""
        unit, levels = np.full(self._box.dim, 0.5), self._box.levels
        if self.numbers:
            unit[self.numbers] = solution.x
        for row, i in enumerate(self.integers):
            unit[i] = levels[i].middle(int(solution.z[row]))
        for row, i in enumerate(self.alternatives):
            unit[i] = levels[i].middle(int(np.argmax(solution.c[row])))
        return unit

    def chances(self, start: NDArray[np.float64] | None, change: float) -> NDArray[np.float64]:
        """Returns the chance of each alternative: the start's, and `change` shared by all others."""
        rows = np.zeros((len(self.alternatives), max(self.alternatives.values())))
        for row, (i, count) in enumerate(self.alternatives.items()):
            rows[row, :count] = 1 / count if start is None else change / (count - 1)
            if start is not None:
                rows[row, self._box.levels[i].at(start[i])] = 1 - change
        assert math.isclose(rows.sum(), len(rows)), "the chances of each coordinate sum to 1"
        return rows


PART = OptimizerPart(
    config=CatCmaConfig,
    make=lambda inputs, config: CatCma(inputs, config.options),
    searches=Box,
    paper="arXiv 2504.07884",
    needs=("cmaes",),
)
