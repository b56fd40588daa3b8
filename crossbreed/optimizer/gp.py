"""Gaussian-process search by Optuna: a model of the scores predicts where a new best is most likely.

For few coordinates and expensive evaluations: Bayesian model merging (arXiv 2605.12843) searches its regularisation
with it. The model (Matern 5/2, one length scale per coordinate, fitted noise) works well up to about twenty coordinates
and a few hundred trials; beyond that, `cma_es` finds better points and asks faster.

Optuna's sampler draws from a RandomState and from Sobol' engines, all seeded from our own generator, and limits torch
to one thread while it fits: so asks are a function of the calls alone, on one machine. Another machine's linear algebra
may differ in the last digit, and a fitted length scale with it.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.samplers import GPSampler
from optuna.trial import Trial, TrialState
from pydantic import Field

from crossbreed.errors import InputError, require
from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.generation import measured
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.protocol import SearchInputs, check_one_objective
from crossbreed.optimizer.silence_optuna import silence_optuna
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Box, Outcome, Point, Status

_MOST_COORDINATES = 21_201
"""The limit of torch's and scipy's Sobol' sequences."""


class GpOptions(Options):
    """Options of `gp`."""

    startup: Annotated[int, Field(ge=2)] = 10
    """Number of values before the model is used: until then the start and a Sobol' sequence around it are asked."""
    spread: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Side of the cube around the start, inside the box, that this sequence fills: a fraction of each range."""


class GpConfig(OptimizerConfig):
    """Gaussian-process optimisation, for one objective and few coordinates."""

    kind: Literal["gp"] = "gp"
    options: GpOptions = GpOptions()


class Gp:
    """Expected improvement of a Gaussian process; joint with the candidates in flight, if there are any (qLogEI).

    It never waits: points in flight are pending in the model, so several workers get different ones. INVALID and
    STOPPED count as the worst measured value. A FAILED candidate stays pending: its value is unknown, but asking there
    again is worth less than asking elsewhere, so a point that kills its engine is not asked for ever.
    A point is never asked twice, since its recipe would score the same: where the model proposes one again, as it does
    when all scores are equal, the next point of the Sobol' sequence is asked instead.
    """

    in_order: ClassVar[bool] = False

    def __init__(self, inputs: SearchInputs, options: GpOptions | None = None) -> None:
        """Lays out the first points.

        Raises:
            InputError: there are several objectives, or too many coordinates.
            MissingExtra: scipy or torch is not installed.
        """
        _check(inputs)
        options = options or GpOptions()
        self._box, self._num_first = inputs.box, options.startup
        self._free = [i for i, (low, high) in enumerate(zip(self._box.low, self._box.high, strict=True)) if low < high]
        self._axes = {str(i): FloatDistribution(0.0, 1.0) for i in self._free}
        self._sequence = _sequence(inputs, options)
        with silence_optuna():
            sampler = GPSampler(seed=int(inputs.rng.integers(2**32)), n_startup_trials=options.startup)
            self._study = optuna.create_study(study_name="crossbreed", sampler=sampler, direction="maximize")
        self._out: dict[int, Trial] = {}
        self._asked: set[Point] = set()
        self._num_valued = 0

    def ask(self, number: int) -> Point:
        """Returns the next of the first points, or the one of the largest expected improvement."""
        with silence_optuna():
            # by values, not by asks: with too few values, Optuna would draw from the whole box
            trial = self._spread() if self._num_valued < self._num_first else self._study.ask(self._axes)
            if self._free and (point := self._point(trial)) in self._asked:
                self._study.tell(trial, state=TrialState.FAIL)
                trial = self._spread()
        self._out[number] = trial
        point = self._point(trial)
        self._asked.add(point)
        return point

    def tell(self, outcome: Outcome) -> None:
        """Gives the model a value, unless there is none."""
        trial = self._out.pop(outcome.number)
        if outcome.status is not Status.FAILED:
            (value,) = measured(outcome) or (-math.inf,)
            with silence_optuna():
                self._study.tell(trial, value)
            self._num_valued += 1

    def _spread(self) -> Trial:
        """Returns the next point of the sequence."""
        unit = next(self._sequence)
        self._study.enqueue_trial({name: float(unit[i]) for name, i in zip(self._axes, self._free, strict=True)})
        return self._study.ask(self._axes)

    def _point(self, trial: Trial) -> Point:
        unit = np.full(self._box.dim, 0.5)
        unit[self._free] = [trial.params[name] for name in self._axes]
        return from_unit(self._box, unit)


def _check(inputs: SearchInputs) -> None:
    require("scipy", extra="gp")
    require("torch", extra="gp")
    check_one_objective(inputs, "gp")
    if inputs.box.dim > _MOST_COORDINATES:
        raise InputError(
            "optimizer `gp` models few coordinates",
            expected=f"at most {_MOST_COORDINATES:,}, preferably no more than twenty",
            got=f"{inputs.box.dim:,}",
            where="optimizer.kind",
            fix="use `kind: cma_es`, or fewer `space.groups`",
        )


def _sequence(inputs: SearchInputs, options: GpOptions) -> Iterator[NDArray[np.float64]]:
    """Yields the start, if there is one, then a scrambled Sobol' sequence in the cube around it (unit coordinates)."""
    from scipy.stats.qmc import Sobol

    sequence, low, side = Sobol(inputs.box.dim, rng=inputs.rng), np.zeros(inputs.box.dim), 1.0
    if inputs.start is not None:
        start, side = to_unit(inputs.box, inputs.start), options.spread
        low = np.clip(start - side / 2, 0.0, 1.0 - side)
        yield start
    while True:
        with warnings.catch_warnings():  # scipy warns that a sequence not drawn in powers of two is less balanced
            warnings.simplefilter("ignore", UserWarning)
            yield low + side * sequence.random()[0]


PART = OptimizerPart(
    config=GpConfig, make=lambda inputs, config: Gp(inputs, config.options), searches=Box, needs=("scipy", "torch")
)
