"""Optuna's samplers that model all outcomes so far, asked as results arrive: what `gp` and `tpe` share.

Each ask makes a sampler of its own, seeded by the candidate's number: so asks are a function of the points told and of
the number, and a journal is replayed without fitting anything.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import Trial, TrialState

from crossbreed.optimizer.optuna_study import Axes, constrain, new_study
from crossbreed.optimizer.protocol import SearchInputs
from crossbreed.optimizer.silence_optuna import silence_optuna
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Outcome, Point, Proposal, Status

_SAME = 1e-9
"""The distance in the unit cube within which a recorded point is one of the sequence's."""


class Points(Protocol):
    """Points of the unit cube to ask before there is a model, and instead of a point that was asked already."""

    def peek(self) -> NDArray[np.float64]:
        """Returns the next point, which stays the next."""
        ...

    def next(self) -> NDArray[np.float64]:
        """Returns the next point."""
        ...


class Modelled(ABC):
    """A model of what was told proposes the next point.

    It never waits: points in flight are pending in the model, so several workers get different ones. A FAILED candidate
    stays pending: its value is unknown, but asking there again is worth less than asking elsewhere, so a point that
    kills its engine is not asked for ever.
    A point is never asked twice, since its recipe would score the same: where the model proposes one again, as it does
    when all scores are equal, the next point of the first ones' sequence is asked instead.
    """

    in_order: ClassVar[bool] = False

    def __init__(self, inputs: SearchInputs, *, axes: Axes, sequence: Points, num_first: int, seed: int) -> None:
        """Builds the optimizer around its first points.

        Args:
            inputs: A box.
            axes: The coordinates that are modelled.
            sequence: The first points.
            num_first: How many outcomes with values there are before the model is asked.
            seed: Decides, with a candidate's number, what is drawn for it.
        """
        self._box, self._axes, self._sequence = inputs.box, axes, sequence
        self._num_first, self._seed = num_first, seed
        with silence_optuna():
            self._plain = RandomSampler(seed=0)  # for trials whose every coordinate is given: it draws nothing
            self._study = new_study(self._plain, num_objectives=inputs.num_objectives)
        self._out: dict[int, Trial] = {}
        self._asked: set[Point] = set()
        self._num_valued = 0

    @abstractmethod
    def _sampler(self, seed: int) -> BaseSampler:
        """Returns a sampler that knows nothing but the study."""

    @abstractmethod
    def _as_told(self, outcome: Outcome) -> tuple[Sequence[float], Sequence[float]]:
        """Returns the values and the excesses that the study is told of an outcome that did not FAIL."""

    def ask(self, number: int) -> Point:
        """Returns the next of the first points, or the one that the model proposes."""
        # by values, not by asks: with too few values, Optuna would draw from the whole box
        point = self._spread() if self._is_starting else self._modelled(number)
        if self._axes.distributions and point in self._asked:
            point = self._spread()
        self._take(number, point)
        return point

    def replay(self, number: int, recorded: Proposal) -> Point:
        """Takes the recorded point, without asking the model again; see `Replayable`."""
        assert isinstance(recorded, tuple), "a box is searched by points"
        own = recorded
        if self._is_starting:
            own = self._spread()
            if self._axes.distributions and own in self._asked:
                own = self._spread()
        elif np.allclose(to_unit(self._box, recorded), self._sequence.peek(), rtol=0, atol=_SAME):
            own = self._spread()  # the model had proposed a point twice
        self._take(number, recorded)
        return own

    def tell(self, outcome: Outcome) -> None:
        """Gives the model a value, unless there is none."""
        trial = self._out.pop(outcome.number)
        if outcome.status is not Status.FAILED:
            values, excesses = self._as_told(outcome)
            with silence_optuna():
                constrain(trial, excesses)
                self._study.tell(trial, values)
            self._num_valued += 1

    @property
    def _is_starting(self) -> bool:
        return not self._axes.distributions or self._num_valued < self._num_first

    def _spread(self) -> Point:
        """Returns the next point of the sequence."""
        return from_unit(self._box, self._sequence.next())

    def _modelled(self, number: int) -> Point:
        """Returns the model's proposal: no earlier fit has a part in it."""
        seed = np.random.SeedSequence((self._seed, number)).generate_state(1)
        with silence_optuna():
            self._study.sampler = self._sampler(int(seed[0]))
            trial = self._study.ask(self._axes.distributions)
            self._study.tell(trial, state=TrialState.FAIL)
            self._study.sampler = self._plain
        return from_unit(self._box, self._axes.unit(trial.params))

    def _take(self, number: int, point: Point) -> None:
        """Adds a pending trial to the study, at what the point itself says: replaying it gives the same bits."""
        with silence_optuna():
            self._study.enqueue_trial(self._axes.params(to_unit(self._box, point)))
            self._out[number] = self._study.ask(self._axes.distributions)
        self._asked.add(point)


def open_coordinates(inputs: SearchInputs) -> list[int]:
    """Returns the coordinates of a box that have room to move."""
    return [i for i, (low, high) in enumerate(zip(inputs.box.low, inputs.box.high, strict=True)) if low < high]
