"""Asking by whole generations, and learning once all outcomes are in: a search is then the same on 1 worker and 40."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from crossbreed.types import Outcome, Point, Proposal, Status


class Generation:
    """Candidates that are learnt from together, whatever the order in which their outcomes arrive."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = list(points)
        self._numbers: list[int] = []
        self._outcomes: dict[int, Outcome] = {}

    def ask(self, number: int) -> Point | None:
        """Returns the next point, or None when all of them are out."""
        if len(self._numbers) == len(self._points):
            return None
        self._numbers.append(number)
        return self._points[len(self._numbers) - 1]

    def replay(self, number: int, recorded: Point) -> tuple[int, Point] | None:
        """Asks the next point again and takes the recorded one instead; returns its index and the replaced one."""
        own = self.ask(number)
        if own is None:
            return None
        index = len(self._numbers) - 1
        self._points[index] = recorded
        return index, own

    def point(self, number: int) -> Point:
        """Returns the point of a candidate, as it was asked or recorded."""
        return self._points[self._numbers.index(number)]

    def tell(self, outcome: Outcome) -> None:
        """Keeps an outcome until the generation is complete."""
        assert outcome.number in self._numbers, f"candidate {outcome.number} is not of this generation"
        assert outcome.number not in self._outcomes, f"candidate {outcome.number} is told twice"
        self._outcomes[outcome.number] = outcome

    @property
    def outcomes(self) -> list[Outcome] | None:
        """One outcome per point, in the order of the points; None until all have arrived."""
        if len(self._outcomes) < len(self._points):
            return None
        return [self._outcomes[number] for number in self._numbers]


class Generational(ABC):
    """The shared part of optimizers that ask by generations."""

    in_order: ClassVar[bool] = True
    _generation: Generation

    def ask(self, number: int) -> Point | None:
        """Returns the next point of the generation, or None while outcomes are outstanding."""
        return self._generation.ask(number)

    def replay(self, number: int, recorded: Proposal) -> Point | None:
        """See `Replayable`."""
        assert isinstance(recorded, tuple), "a box is searched by points"
        replayed = self._generation.replay(number, recorded)
        if replayed is None:
            return None
        index, own = replayed
        if own != recorded:
            self._take(index, recorded)
        return own

    def tell(self, outcome: Outcome) -> None:
        """Keeps the outcome; the last one of a generation triggers learning from all of them."""
        self._generation.tell(outcome)
        outcomes = self._generation.outcomes
        if outcomes is not None:
            self._learn(outcomes)

    @abstractmethod
    def _take(self, index: int, recorded: Point) -> None:
        """Puts a recorded point in the place of the generation's own, for what `_learn` knows of it."""

    @abstractmethod
    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        """Learns from one outcome for each point of the generation, and sets the next `_generation`."""


def measured(outcome: Outcome) -> tuple[float, ...] | None:
    """Returns the comparable values: those of an OK outcome, unless one is NaN or infinite."""
    if outcome.status is not Status.OK or outcome.values is None:
        return None
    return outcome.values if all(map(math.isfinite, outcome.values)) else None
