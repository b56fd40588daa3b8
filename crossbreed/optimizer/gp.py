"""Gaussian-process search by Optuna: a model of the scores predicts where a new best is most likely.

For few coordinates and expensive evaluations: Bayesian model merging (arXiv 2605.12843) searches its regularisation
with it. The model (Matern 5/2, one length scale per coordinate, fitted noise) works well up to about twenty coordinates
and a few hundred trials; beyond that, `cma_es` finds better points and asks faster.

Optuna's sampler draws from a RandomState and from Sobol' engines, all seeded from our own generator and the candidate's
number, and limits torch to one thread while it fits: so asks are a function of the calls alone, on one machine. Another
machine's linear algebra may differ in the last digit, and a fitted length scale with it.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, GPSampler
from pydantic import Field

from crossbreed.errors import InputError, require
from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.generation import measured
from crossbreed.optimizer.modelled import Modelled, open_coordinates
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.optuna_study import Axes
from crossbreed.optimizer.protocol import SearchInputs, check_one_objective
from crossbreed.optimizer.unit_cube import to_unit
from crossbreed.types import Box, Outcome

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

    @property
    def reads_violations(self) -> bool:
        """True: Optuna models them, and multiplies the expected improvement by the chance that all hold."""
        return True


class Gp(Modelled):
    """Expected improvement of a Gaussian process; joint with the candidates in flight, if there are any (qLogEI).

    INVALID and STOPPED count as the worst measured value.
    """

    def __init__(self, inputs: SearchInputs, options: GpOptions | None = None) -> None:
        """Lays out the first points.

        Raises:
            InputError: there are several objectives, or too many coordinates.
            MissingExtra: scipy or torch is not installed.
        """
        _check(inputs)
        options = options or GpOptions()
        self._num_constraints = inputs.num_constraints
        super().__init__(
            inputs,
            axes=Axes(inputs.box.dim, levels={}, of=open_coordinates(inputs)),
            num_first=options.startup,
            seed=int(inputs.rng.integers(2**32)),
            sequence=_Sobol(inputs, options),
        )

    def _sampler(self, seed: int) -> BaseSampler:
        return GPSampler(seed=seed, n_startup_trials=self._num_first)

    def _as_told(self, outcome: Outcome) -> tuple[Sequence[float], Sequence[float]]:
        values = measured(outcome) or (-math.inf,)
        return values, (math.inf,) * self._num_constraints if outcome.excesses is None else outcome.excesses


class _Sobol:
    """The start, if there is one, then a scrambled Sobol' sequence in the cube around it (unit coordinates)."""

    def __init__(self, inputs: SearchInputs, options: GpOptions) -> None:
        from scipy.stats.qmc import Sobol

        self._sobol, self._low, self._side = Sobol(inputs.box.dim, rng=inputs.rng), np.zeros(inputs.box.dim), 1.0
        self._next: NDArray[np.float64] | None = None
        if inputs.start is not None:
            self._next, self._side = to_unit(inputs.box, inputs.start), options.spread
            self._low = np.clip(self._next - self._side / 2, 0.0, 1.0 - self._side)

    def peek(self) -> NDArray[np.float64]:
        """Returns the next point, which stays the next."""
        if self._next is None:
            with warnings.catch_warnings():  # scipy warns that a sequence not drawn in powers of two is less balanced
                warnings.simplefilter("ignore", UserWarning)
                self._next = self._low + self._side * self._sobol.random()[0]
        return self._next

    def next(self) -> NDArray[np.float64]:
        """Returns the next point."""
        point, self._next = self.peek(), None
        return point


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


PART = OptimizerPart(
    config=GpConfig, make=lambda inputs, config: Gp(inputs, config.options), searches=Box, needs=("scipy", "torch")
)
