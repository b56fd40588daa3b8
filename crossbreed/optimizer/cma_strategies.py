"""The libraries' CMA-ES in the unit cube, each with random numbers of our own generator alone.

Nothing used here touches numpy's global generator. (lm-eval re-seeds that at every call, which makes pycma about 90
times worse: the conformance suite does the same and requires the same points.)
"""

import math
import warnings
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from crossbreed.errors import require
from crossbreed.optimizer.generation import measured
from crossbreed.optimizer.protocol import SearchInputs
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Outcome, Status

if TYPE_CHECKING:
    import cma

Unit = NDArray[np.float64]


class Strategy(Protocol):
    """One normal distribution."""

    @property
    def popsize(self) -> int:
        """Samples of a generation."""
        ...

    @property
    def mean(self) -> Unit:
        """Its mean."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether it has converged, or sees a plateau."""
        ...

    def ask(self) -> list[Unit]:
        """Returns a generation."""
        ...

    def tell(self, samples: Sequence[Unit], losses: Sequence[float]) -> None:
        """Moves it towards the samples with the smaller losses."""
        ...


class Pycma:
    """pycma's."""

    def __init__(
        self,
        mean: Unit,
        *,
        sigma: float,
        popsize: int | None,
        rng: np.random.Generator,
        separable: bool,
        keep: float = 0,
    ) -> None:
        """Begins at a mean.

        Args:
            mean: Of the unit cube, at least two coordinates.
            sigma: The first step.
            popsize: Samples of a generation; None: pycma's default.
            rng: What everything is drawn from.
            separable: Whether only variances are learnt.
            keep: pycma's `CMA_injections_threshold_keep_len`: 1 keeps the length of injected steps.
        """
        self.inner = self._made(mean, sigma, popsize, rng, separable=separable, keep=keep)

    @property
    def popsize(self) -> int:
        """See Strategy."""
        return int(self.inner.popsize)

    @property
    def mean(self) -> Unit:
        """See Strategy."""
        return np.asarray(self.inner.result.xfavorite)

    @property
    def is_over(self) -> bool:
        """See Strategy."""
        return bool(self.inner.stop())

    def ask(self) -> list[Unit]:
        """See Strategy."""
        return [*self.inner.ask()]

    def tell(self, samples: Sequence[Unit], losses: Sequence[float]) -> None:
        """See Strategy."""
        self.inner.tell(samples, losses)

    def _made(
        self, mean: Unit, sigma: float, popsize: int | None, rng: np.random.Generator, *, separable: bool, keep: float
    ) -> "cma.CMAEvolutionStrategy":
        with warnings.catch_warnings():  # here, not above: it brings scipy.stats, a second of every command's
            warnings.filterwarnings("ignore", message="Could not import matplotlib")  # its plots are not ours
            import cma
            from cma.sigma_adaptation import CMAAdaptSigmaCSA
        options = {
            "AdaptSigma": CMAAdaptSigmaCSA,  # the default above 300 coordinates draws from the global generator
            "bounds": [0.0, 1.0],
            "randn": lambda *shape: rng.standard_normal(shape),
            "seed": math.nan,  # "do nothing": 0 would mean the clock
            "signals_filename": "",  # no options from files in the working folder
            "tolfun": 0.0,  # plateaus are detected by ranks (tolflatfitness), whatever the scale of scores
            "tolfunhist": 0.0,
            "verbose": -9,
        }
        if popsize is not None:
            options["popsize"] = popsize
        if separable:
            options["CMA_diagonal"] = True
        if keep:
            options["CMA_injections_threshold_keep_len"] = keep
        with warnings.catch_warnings():  # its constructor leaves a filter behind
            return cma.CMAEvolutionStrategy(mean, sigma, options)


class Adapted:
    """cmaes', with learning-rate adaptation."""

    def __init__(self, mean: Unit, *, sigma: float, popsize: int | None, rng: np.random.Generator) -> None:
        """Begins at a mean; the arguments are those of Pycma. Raises MissingExtra where cmaes is not installed."""
        require("cmaes", extra="searches")
        import cmaes

        bounds = np.tile([0.0, 1.0], (len(mean), 1))
        seed = int(rng.integers(2**32))
        self._inner = cmaes.CMA(
            mean=mean, sigma=sigma, bounds=bounds, seed=seed, population_size=popsize, lr_adapt=True
        )

    @property
    def popsize(self) -> int:
        """See Strategy."""
        return int(self._inner.population_size)

    @property
    def mean(self) -> Unit:
        """See Strategy: inside the cube, which samples alone are kept in."""
        return np.asarray(np.clip(self._inner.mean, 0.0, 1.0))

    @property
    def is_over(self) -> bool:
        """See Strategy."""
        return bool(self._inner.should_stop())

    def ask(self) -> list[Unit]:
        """See Strategy."""
        return [self._inner.ask() for _ in range(self.popsize)]

    def tell(self, samples: Sequence[Unit], losses: Sequence[float]) -> None:
        """See Strategy."""
        self._inner.tell([*zip(samples, losses, strict=True)])


def first_mean(inputs: SearchInputs) -> NDArray[np.float64]:
    """Returns the start in the unit cube, or its middle; one coordinate is doubled, which the libraries do not take."""
    box = inputs.box
    start = inputs.start if inputs.start is not None else from_unit(box, np.full(box.dim, 0.5))
    return np.resize(to_unit(box, start), max(2, box.dim))


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
