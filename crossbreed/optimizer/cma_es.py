"""CMA-ES by pycma: samples a normal distribution and moves it towards the better half of each generation.

The default for one objective. It uses only the order of scores, so their scale does not matter, and it averages over a
generation, so it tolerates the noise of small validation sets.

Everything runs inside a unit cube (`cma_strategies.py`, `cma_surrogate.py`).
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.cma_strategies import Adapted, Pycma, Strategy, first_mean, rank_losses
from crossbreed.optimizer.cma_surrogate import LqCmaEs
from crossbreed.optimizer.generation import Generation, Generational
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.protocol import SearchInputs, check_one_objective
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Box, Outcome, Point


class CmaEsOptions(Options):
    """Options of `cma_es`."""

    sigma0: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Initial step size, as a fraction of each coordinate's range."""
    popsize: Annotated[int, Field(ge=4)] | None = None
    """Candidates per generation; default 4 + 3 ln(coordinates)."""
    separable: bool = False
    """Whether only variances are learnt (pycma's `CMA_diagonal`): faster to adapt, and to ask, from some hundred
    coordinates on; it does not follow coordinates that depend on one another."""
    learning_rate: Literal["fixed", "adapted"] = "fixed"
    """`adapted`: steps are as small as the noise of the scores demands (LRA-CMA-ES, arXiv 2304.03473, by cmaes). For
    few items a trial and many trials: it gives up speed for being right."""
    surrogate: Literal["none", "lq"] = "none"
    """`lq`: a linear, then quadratic model ranks most of a generation, and as many candidates are measured as it takes
    for the model to agree with them (lq-CMA-ES, by pycma). For a few smooth coordinates and few trials."""

    @model_validator(mode="after")
    def _combine(self) -> "CmaEsOptions":
        if self.learning_rate == "adapted" and (self.separable or self.surrogate != "none"):
            raise ValueError("`learning_rate: adapted` is cmaes', which has neither `separable` nor `surrogate`")
        return self


class CmaEsConfig(OptimizerConfig):
    """CMA-ES, for one objective."""

    kind: Literal["cma_es"] = "cma_es"
    options: CmaEsOptions = CmaEsOptions()


class CmaEs(Generational):
    """One normal distribution, started around `inputs.start` (or the middle of the box).

    When it converges or reaches a plateau, it restarts at its last mean with the initial step size and twice the
    population (IPOP). It restarts at the mean rather than at the best point seen, which under noise is the luckiest.
    """

    def __init__(self, inputs: SearchInputs, options: CmaEsOptions | None = None) -> None:
        """Samples the first generation.

        Raises:
            InputError: there are several objectives.
            MissingExtra: an option needs cmaes, which is not installed.
        """
        check_one_objective(inputs, "cma_es")
        self._box, self._rng, self._options = inputs.box, inputs.rng, options or CmaEsOptions()
        self._strategy = self._begin(first_mean(inputs), self._options.popsize)
        self._sample()

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        losses = rank_losses(outcomes)
        if losses is not None:
            self._strategy.tell(self._samples, losses)
            if self._strategy.is_over:
                self._strategy = self._begin(self._strategy.mean, 2 * self._strategy.popsize)
        self._sample()

    def _take(self, index: int, recorded: Point) -> None:
        taken = np.array(self._samples[index])  # a second coordinate that the box does not have stays
        taken[: self._box.dim] = to_unit(self._box, recorded)
        self._samples[index] = taken

    def _begin(self, mean: NDArray[np.float64], popsize: int | None) -> Strategy:
        options = self._options
        if options.learning_rate == "adapted":
            return Adapted(mean, sigma=options.sigma0, popsize=popsize, rng=self._rng)
        return Pycma(mean, sigma=options.sigma0, popsize=popsize, rng=self._rng, separable=options.separable)

    def _sample(self) -> None:
        self._samples = self._strategy.ask()
        self._generation = Generation([from_unit(self._box, x[: self._box.dim]) for x in self._samples])


def _made(inputs: SearchInputs, config: CmaEsConfig) -> Generational:
    options = config.options
    if options.surrogate == "lq":
        return LqCmaEs(inputs, sigma0=options.sigma0, popsize=options.popsize, separable=options.separable)
    return CmaEs(inputs, options)


PART = OptimizerPart(config=CmaEsConfig, make=_made, searches=Box, paper="arXiv 1604.00772")
