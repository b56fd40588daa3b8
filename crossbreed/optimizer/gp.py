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
from typing import Annotated, ClassVar, Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.samplers import GPSampler, RandomSampler
from optuna.trial import Trial, TrialState
from pydantic import Field

from crossbreed.errors import InputError, require
from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.generation import measured
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.optuna_constraints import constrain
from crossbreed.optimizer.protocol import SearchInputs, check_one_objective
from crossbreed.optimizer.silence_optuna import silence_optuna
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Box, Outcome, Point, Proposal, Status

_MOST_COORDINATES = 21_201
"""The limit of torch's and scipy's Sobol' sequences."""
_SAME = 1e-9
"""The distance in the unit cube within which a recorded point is one of the sequence's."""


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
        self._box, self._num_first, self._num_constraints = inputs.box, options.startup, inputs.num_constraints
        self._free = [i for i, (low, high) in enumerate(zip(self._box.low, self._box.high, strict=True)) if low < high]
        self._axes = {str(i): FloatDistribution(0.0, 1.0) for i in self._free}
        self._seed = int(inputs.rng.integers(2**32))
        self._sequence = _Sequence(inputs, options)
        with silence_optuna():
            self._plain = RandomSampler(seed=0)  # for trials whose every coordinate is given: it draws nothing
            self._study = optuna.create_study(study_name="crossbreed", sampler=self._plain, direction="maximize")
        self._out: dict[int, Trial] = {}
        self._asked: set[Point] = set()
        self._num_valued = 0

    def ask(self, number: int) -> Point:
        """Returns the next of the first points, or the one of the largest expected improvement."""
        # by values, not by asks: with too few values, Optuna would draw from the whole box
        point = self._spread() if self._is_starting else self._modelled(number)
        if self._free and point in self._asked:
            point = self._spread()
        self._take(number, point)
        return point

    def replay(self, number: int, recorded: Proposal) -> Point:
        """Takes the recorded point, without asking the model again; see `Replayable`."""
        assert isinstance(recorded, tuple), "a box is searched by points"
        own = recorded
        if self._is_starting:
            own = self._spread()
            if self._free and own in self._asked:
                own = self._spread()
        elif np.allclose(to_unit(self._box, recorded), self._sequence.peek(), rtol=0, atol=_SAME):
            own = self._spread()  # the model had proposed a point twice
        self._take(number, recorded)
        return own

    def tell(self, outcome: Outcome) -> None:
        """Gives the model a value, unless there is none."""
        trial = self._out.pop(outcome.number)
        if outcome.status is not Status.FAILED:
            (value,) = measured(outcome) or (-math.inf,)
            with silence_optuna():
                constrain(trial, (math.inf,) * self._num_constraints if outcome.excesses is None else outcome.excesses)
                self._study.tell(trial, value)
            self._num_valued += 1

    @property
    def _is_starting(self) -> bool:
        return not self._free or self._num_valued < self._num_first

    def _spread(self) -> Point:
        """Returns the next point of the sequence."""
        return from_unit(self._box, self._sequence.next())

    def _modelled(self, number: int) -> Point:
        """Returns the model's proposal, a function of the points told and the number: no earlier fit has a part in it.

        So a journal is replayed without fitting anything.
        """
        seed = np.random.SeedSequence((self._seed, number)).generate_state(1)
        with silence_optuna():
            self._study.sampler = GPSampler(seed=int(seed[0]), n_startup_trials=self._num_first)
            trial = self._study.ask(self._axes)
            self._study.tell(trial, state=TrialState.FAIL)
            self._study.sampler = self._plain
        unit = np.full(self._box.dim, 0.5)
        unit[self._free] = [trial.params[name] for name in self._axes]
        return from_unit(self._box, unit)

    def _take(self, number: int, point: Point) -> None:
        """Adds a pending trial to the study, at what the point itself says: replaying it gives the same bits."""
        unit = to_unit(self._box, point)
        with silence_optuna():
            self._study.enqueue_trial({name: float(unit[i]) for name, i in zip(self._axes, self._free, strict=True)})
            self._out[number] = self._study.ask(self._axes)
        self._asked.add(point)


class _Sequence:
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
