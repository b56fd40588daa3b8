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
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crossbreed.config import Config
from crossbreed.errors import InputError, require
from crossbreed.optimizer.budget import BudgetConfig
from crossbreed.optimizer.generation import measured
from crossbreed.optimizer.protocol import Setting
from crossbreed.optimizer.quiet import quiet
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Outcome, Point, Status

if TYPE_CHECKING:
    from optuna.trial import Trial

_MOST_COORDINATES = 21_201
"""Of torch's and scipy's Sobol' sequences."""


class GpOptions(Config):
    """Options of `gp`."""

    startup: Annotated[int, Field(ge=2)] = 10
    """Trials before the model decides: the start, then a Sobol' sequence around it."""
    spread: Annotated[float, Field(gt=0, le=1)] = 1.0
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
    """

    in_order: ClassVar[bool] = False

    def __init__(self, setting: Setting, options: GpOptions | None = None) -> None:
        """Lays out the first points.

        Raises:
            InputError: there are several objectives, or too many coordinates.
            MissingExtra: scipy or torch is not installed.
        """
        _check(setting)
        import optuna
        from optuna.samplers import GPSampler

        options = options or GpOptions()
        self._box, wide = setting.box, np.less(setting.box.low, setting.box.high)
        self._free = np.flatnonzero(wide)
        self._axes = {str(i): optuna.distributions.FloatDistribution(0.0, 1.0) for i in self._free}
        self._first = list(_first_points(setting, options)[:, self._free])
        with quiet():
            sampler = GPSampler(seed=int(setting.rng.integers(2**32)), n_startup_trials=options.startup)
            self._study = optuna.create_study(study_name="crossbreed", sampler=sampler, direction="maximize")
        self._out: dict[int, Trial] = {}

    def ask(self, number: int) -> Point:
        """Returns the next of the first points, or the one of the largest expected improvement."""
        if self._first:
            self._study.enqueue_trial(dict(zip(self._axes, map(float, self._first.pop(0)), strict=True)))
        with quiet():
            trial = self._out[number] = self._study.ask(self._axes)
        unit = np.full(self._box.dim, 0.5)
        unit[self._free] = [trial.params[name] for name in self._axes]
        return from_unit(self._box, unit)

    def tell(self, outcome: Outcome) -> None:
        """Gives the model a value, unless there is none."""
        trial = self._out.pop(outcome.number)
        if outcome.status is not Status.FAILED:
            (value,) = measured(outcome) or (-math.inf,)
            with quiet():
                self._study.tell(trial, value)


def _check(setting: Setting) -> None:
    require("scipy", extra="gp")
    require("torch", extra="gp")
    if setting.num_objectives != 1:
        raise InputError(
            "optimizer `gp` searches for one objective",
            expected="one entry under `fitness.objectives`",
            got=f"{setting.num_objectives} objectives",
            where="optimizer.kind",
            fix="use `kind: nsga2` for a Pareto front, or one objective such as `{mean: [TASKS]}`",
        )
    if setting.box.dim > _MOST_COORDINATES:
        raise InputError(
            "optimizer `gp` models few coordinates",
            expected=f"at most {_MOST_COORDINATES:,}, and better no more than twenty",
            got=f"{setting.box.dim:,}",
            where="optimizer.kind",
            fix="use `kind: cma_es`, or fewer `space.groups`",
        )


def _first_points(setting: Setting, options: GpOptions) -> NDArray[np.float64]:
    """The start, if there is one, and a scrambled Sobol' sequence in the cube around it: unit points [startup, dim]."""
    from scipy.stats.qmc import Sobol

    with warnings.catch_warnings():  # a sequence whose length is no power of two is less balanced, as it says
        warnings.simplefilter("ignore", UserWarning)
        spread: NDArray[np.float64] = Sobol(setting.box.dim, rng=setting.rng).random(options.startup)
    if setting.start is None:
        return spread
    start = to_unit(setting.box, setting.start)
    low = np.clip(start - options.spread / 2, 0.0, 1.0 - options.spread)
    spread = low + options.spread * spread
    spread[0] = start
    return spread
