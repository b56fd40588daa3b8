"""CMA-ES by pycma: samples a normal distribution and moves it towards the better half of each generation.

The default for one objective. It uses only the order of scores, so their scale does not matter, and it averages over a
generation, so it tolerates the noise of small validation sets.

pycma runs inside a unit cube and draws every random number from our own generator; nothing used here touches numpy's
global one. (lm-eval re-seeds that at every call, which makes pycma about 90 times worse: the conformance suite does the
same and requires the same points.)
"""

import math
import warnings
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.generation import Generation, Generational, measured
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.protocol import SearchInputs, check_one_objective
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Box, Outcome, Point, Status

if TYPE_CHECKING:
    import cma


class CmaEsOptions(Options):
    """Options of `cma_es`."""

    sigma0: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Initial step size, as a fraction of each coordinate's range."""
    popsize: Annotated[int, Field(ge=4)] | None = None
    """Candidates per generation; default 4 + 3 ln(coordinates)."""


class CmaEsConfig(OptimizerConfig):
    """CMA-ES, for one objective."""

    kind: Literal["cma_es"] = "cma_es"
    options: CmaEsOptions = CmaEsOptions()


class CmaEs(Generational):
    """One normal distribution, started around `inputs.start` (or the middle of the box).

    When pycma converges or reaches a plateau, it restarts at its last mean with the initial step size and twice the
    population (IPOP). It restarts at the mean rather than at the best point seen, which under noise is the luckiest.
    """

    def __init__(self, inputs: SearchInputs, options: CmaEsOptions | None = None) -> None:
        """Samples the first generation.

        Raises:
            InputError: there are several objectives.
        """
        check_one_objective(inputs, "cma_es")
        self._box, self._rng, self._options = inputs.box, inputs.rng, options or CmaEsOptions()
        start = inputs.start if inputs.start is not None else from_unit(self._box, np.full(self._box.dim, 0.5))
        # pycma does not support one dimension: the box then gets a second coordinate, which is dropped again
        mean = np.resize(to_unit(self._box, start), max(2, self._box.dim))
        self._strategy = self._begin(mean, self._options.popsize)
        self._sample()

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        losses = rank_losses(outcomes)
        if losses is not None:
            self._strategy.tell(self._samples, losses)
            if self._strategy.stop():
                self._strategy = self._begin(self._strategy.result.xfavorite, 2 * self._strategy.popsize)
        self._sample()

    def _take(self, index: int, recorded: Point) -> None:
        taken = np.array(self._samples[index])  # a second coordinate that the box does not have stays
        taken[: self._box.dim] = to_unit(self._box, recorded)
        self._samples[index] = taken

    def _begin(self, mean: NDArray[np.float64], popsize: int | None) -> "cma.CMAEvolutionStrategy":
        with warnings.catch_warnings():  # here, not above: it brings scipy.stats, a second of every command's
            warnings.filterwarnings("ignore", message="Could not import matplotlib")  # its plots are not ours
            import cma
            from cma.sigma_adaptation import CMAAdaptSigmaCSA
        options = {
            "AdaptSigma": CMAAdaptSigmaCSA,  # the default above 300 coordinates draws from the global generator
            "bounds": [0.0, 1.0],
            "randn": lambda *shape: self._rng.standard_normal(shape),
            "seed": math.nan,  # "do nothing": 0 would mean the clock
            "signals_filename": "",  # no options from files in the working folder
            "tolfun": 0.0,  # plateaus are detected by ranks (tolflatfitness), whatever the scale of scores
            "tolfunhist": 0.0,
            "verbose": -9,
        }
        if popsize is not None:
            options["popsize"] = popsize
        with warnings.catch_warnings():  # its constructor leaves a filter behind
            return cma.CMAEvolutionStrategy(mean, self._options.sigma0, options)

    def _sample(self) -> None:
        self._samples = self._strategy.ask()
        self._generation = Generation([from_unit(self._box, x[: self._box.dim]) for x in self._samples])


def rank_losses(outcomes: Sequence[Outcome]) -> list[float] | None:
    """Returns the losses for CMA-ES to rank (smaller is better), or None if too little was measured to learn from.

    FAILED carries no information about a candidate: it ranks at the median of the measured ones, where CMA-ES gives it
    next to no weight. INVALID and STOPPED rank below the worst. With nothing measured, or more than half FAILED, the
    same distribution is sampled again.

    >>> ok = [Outcome(number=i, status=Status.OK, values=(float(i),)) for i in range(3)]
    >>> rank_losses([*ok, Outcome(number=3, status=Status.FAILED, values=None)])
    [-0.0, -1.0, -2.0, -1.0]
    """
    values = [None if (found := measured(outcome)) is None else -found[0] for outcome in outcomes]
    known = [value for value in values if value is not None]
    num_failed = sum(outcome.status is Status.FAILED for outcome in outcomes)
    if not known or 2 * num_failed > len(outcomes):
        return None
    neutral, bad = median(known), math.nextafter(max(known), math.inf)
    return [
        value if value is not None else neutral if outcome.status is Status.FAILED else bad
        for value, outcome in zip(values, outcomes, strict=True)
    ]


PART = OptimizerPart(
    config=CmaEsConfig,
    make=lambda inputs, config: CmaEs(inputs, config.options),
    searches=Box,
    paper="arXiv 1604.00772",
)
