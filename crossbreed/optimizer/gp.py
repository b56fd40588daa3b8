"""Gaussian-process search by Optuna: a model of the scores says where one more is likeliest to be the best yet.

For few coordinates and dear evaluations: what Bayesian model merging (arXiv 2605.12843) searches its regularisation
with. The model (Matern 5/2, a length for each coordinate, noise fitted) is good up to some twenty coordinates and some
hundreds of trials; beyond, `cma_es` finds more and asks faster.

Optuna's sampler draws from a RandomState and from Sobol' engines, all seeded from our own generator, and limits torch
to one thread while it fits: so asks are a function of the calls alone, on one machine. Another machine's linear algebra
may differ in the last digit, and a fitted length with it.
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

from crossbreed.config import Config
from crossbreed.errors import InputError, require
from crossbreed.optimizer.budget import BudgetConfig
from crossbreed.optimizer.generation import measured
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.protocol import Setting, check_one_objective
from crossbreed.optimizer.quiet import quiet
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Outcome, Point, Status

_MOST_COORDINATES = 21_201
"""Of torch's and scipy's Sobol' sequences."""


class GpOptions(Options):
    """Options of `gp`."""

    startup: Annotated[int, Field(ge=2)] = 10
    """Values before the model decides: until then the start is asked, and a Sobol' sequence around it."""
    spread: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Side of the cube around the start, kept inside the box, that this sequence fills: a share of each range."""


class GpConfig(Config):
    """Gaussian-process optimisation, for one objective and few coordinates."""

    kind: Literal["gp"] = "gp"
    budget: BudgetConfig
    options: GpOptions = GpOptions()


class Gp:
    """Expected improvement of a Gaussian process; with candidates out, of them and the next one together (qLogEI).

    It never waits: the points that are out are pending in the model, so several workers ask different ones. INVALID and
    STOPPED count as the worst value measured. A FAILED candidate stays pending: nothing is known of its value, but to
    ask there again is worth less than to ask elsewhere, so that a point which kills its engine is not asked for ever.
    A point is never asked twice, since its recipe would score the same: where the model wants that, which it does where
    all scores are alike, the Sobol' sequence goes on.
    """

    in_order: ClassVar[bool] = False

    def __init__(self, setting: Setting, options: GpOptions | None = None) -> None:
        """Lays out the first points.

        Raises:
            InputError: there are several objectives, or too many coordinates.
            MissingExtra: scipy or torch is not installed.
        """
        _check(setting)
        options = options or GpOptions()
        self._box, self._num_first = setting.box, options.startup
        self._free = [i for i, (low, high) in enumerate(zip(self._box.low, self._box.high, strict=True)) if low < high]
        self._axes = {str(i): FloatDistribution(0.0, 1.0) for i in self._free}
        self._sequence = _sequence(setting, options)
        with quiet():
            sampler = GPSampler(seed=int(setting.rng.integers(2**32)), n_startup_trials=options.startup)
            self._study = optuna.create_study(study_name="crossbreed", sampler=sampler, direction="maximize")
        self._out: dict[int, Trial] = {}
        self._asked: set[Point] = set()
        self._num_valued = 0

    def ask(self, number: int) -> Point:
        """Returns the next of the first points, or the one of the largest expected improvement."""
        with quiet():
            # not by what was asked: short of values, Optuna would draw from the whole box
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
            with quiet():
                self._study.tell(trial, value)
            self._num_valued += 1

    def _spread(self) -> Trial:
        """The next point of the sequence."""
        unit = next(self._sequence)
        self._study.enqueue_trial({name: float(unit[i]) for name, i in zip(self._axes, self._free, strict=True)})
        return self._study.ask(self._axes)

    def _point(self, trial: Trial) -> Point:
        unit = np.full(self._box.dim, 0.5)
        unit[self._free] = [trial.params[name] for name in self._axes]
        return from_unit(self._box, unit)


def _check(setting: Setting) -> None:
    require("scipy", extra="gp")
    require("torch", extra="gp")
    check_one_objective(setting, "gp")
    if setting.box.dim > _MOST_COORDINATES:
        raise InputError(
            "optimizer `gp` models few coordinates",
            expected=f"at most {_MOST_COORDINATES:,}, and better no more than twenty",
            got=f"{setting.box.dim:,}",
            where="optimizer.kind",
            fix="use `kind: cma_es`, or fewer `space.groups`",
        )


def _sequence(setting: Setting, options: GpOptions) -> Iterator[NDArray[np.float64]]:
    """The start, if there is one, then a scrambled Sobol' sequence in the cube around it, in unit coordinates."""
    from scipy.stats.qmc import Sobol

    sequence, low, side = Sobol(setting.box.dim, rng=setting.rng), np.zeros(setting.box.dim), 1.0
    if setting.start is not None:
        start, side = to_unit(setting.box, setting.start), options.spread
        low = np.clip(start - side / 2, 0.0, 1.0 - side)
        yield start
    while True:
        with warnings.catch_warnings():  # begun anywhere but at a power of two it is less balanced, as it says
            warnings.simplefilter("ignore", UserWarning)
            yield low + side * sequence.random()[0]
