"""Boxes whose first coordinate chooses among alternatives: each alternative is asked before the search begins.

A step of a search seldom crosses into the interval of another operator, and until it does, the coordinates of that
operator are dead. So the first trials are the start of the search under each alternative, and the search itself starts
at the best of them.
"""

from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import ClassVar

import numpy as np

from crossbreed.optimizer.feasible import nearest
from crossbreed.optimizer.generation import measured
from crossbreed.optimizer.protocol import Optimizer, SearchInputs, replayed
from crossbreed.types import Box, Outcome, Point, Proposal, Status

_SAME = 1e-6
"""A recorded point within this of its own is the same: processors round differently."""
_MOST_ASKS = 3
"""Of an alternative that FAILED: a machine may be down for a while."""


class Covering:
    """Asks the start under each alternative, then what an optimizer asks that starts at the best of them.

    Runs that were recorded before alternatives were asked first have other points there, which the optimizer alone
    proposes: they are replayed by it, from the start that it had then.
    """

    in_order: ClassVar[bool] = True

    def __init__(self, inputs: SearchInputs, make: Callable[[SearchInputs], Optimizer]) -> None:
        """Lays out the first points."""
        self._inputs, self._make = inputs, make
        self._next = deque(alternatives(inputs.box, inputs.start))
        """The alternatives to ask, and those that FAILED to ask again."""
        self._asked: dict[int, Point] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._inner: Optimizer | None = None
        self._before: Optimizer | None = make(replace(inputs, rng=deepcopy(inputs.rng)))
        """The optimizer alone, as long as it proposes what is replayed."""

    def ask(self, number: int) -> Proposal | None:
        """Returns the next alternative; None while their outcomes are outstanding; then the optimizer's proposal."""
        self._before = None
        if self._inner is None and self._next:
            self._asked[number] = self._next.popleft()
            return self._asked[number]
        inner = self._started()
        return None if inner is None else inner.ask(number)

    def replay(self, number: int, recorded: Proposal) -> Proposal | None:
        """See `Replayable`."""
        assert isinstance(recorded, tuple), "a box is searched by points"
        is_again = len(self._asked) >= self._inputs.box.choices
        if is_again and self._next and not _is_same(self._next[0], recorded):
            self._next.clear()  # recorded before what FAILED was asked again
        if self._inner is None and self._next:
            was = None if self._before is None else replayed(self._before, number, recorded)
            if not isinstance(was, tuple) or not _is_same(was, recorded):
                self._before = None
            elif not _is_same(self._next[0], recorded):
                self._inner, self._before, self._asked = self._before, None, {}
                return was
            self._asked[number] = recorded
            return self._next.popleft()
        inner = self._started()
        return None if inner is None else replayed(inner, number, recorded)

    def tell(self, outcome: Outcome) -> None:
        """Keeps the outcome of an alternative, which is asked again if it FAILED; passes on all others."""
        if outcome.number not in self._asked:
            assert self._inner is not None, f"candidate {outcome.number} was not asked"
            self._inner.tell(outcome)
            return
        if self._before is not None:
            self._before.tell(outcome)
        self._outcomes[outcome.number] = outcome
        point = self._asked[outcome.number]
        if outcome.status is Status.FAILED and [*self._asked.values()].count(point) < _MOST_ASKS:
            self._next.append(point)

    def _started(self) -> Optimizer | None:
        """Returns the optimizer; None until every alternative has an outcome."""
        if self._inner is None and len(self._outcomes) == len(self._asked):
            self._before = None
            self._inner = self._make(replace(self._inputs, start=self._best()))
        return self._inner

    def _best(self) -> Point | None:
        """Returns the best of the alternatives, of equals the first; the given start if none was measured."""
        known = nearest([outcome for outcome in self._outcomes.values() if measured(outcome) is not None])
        values = {outcome.number: found for outcome in known if (found := measured(outcome)) is not None}
        if not values:
            return self._inputs.start
        columns = list(zip(*values.values(), strict=True))
        spans = [(min(column), max(column) - min(column) or 1.0) for column in columns]
        sums = {
            number: sum((value - low) / span for value, (low, span) in zip(found, spans, strict=True))
            for number, found in values.items()
        }
        return self._asked[max(sorted(sums), key=sums.__getitem__)]


class CoveringAnyOrder(Covering):
    """The same around an optimizer that is told outcomes as they arrive."""

    in_order: ClassVar[bool] = False


def alternatives(box: Box, start: Point | None) -> Sequence[Point]:
    """Returns the start, or the middle of the box, in the middle of each interval of the first coordinate.

    >>> alternatives(Box(low=(0.0, -1.0), high=(2.0, 1.0), choices=2), None)
    [(0.5, 0.0), (1.5, 0.0)]
    """
    middle = tuple((low + high) / 2 for low, high in zip(box.low, box.high, strict=True))
    _, *others = middle if start is None else start
    step = (box.high[0] - box.low[0]) / box.choices
    return [(box.low[0] + (index + 0.5) * step, *others) for index in range(box.choices)]


def _is_same(own: Point, recorded: Point) -> bool:
    return np.allclose(own, recorded, rtol=0, atol=_SAME)


def covering(inputs: SearchInputs, make: Callable[[SearchInputs], Optimizer]) -> Optimizer:
    """Returns an optimizer that asks alternatives first, if the domain has any; raises what `make` raises."""
    if not isinstance(inputs.domain, Box) or inputs.domain.choices < 2:
        return make(inputs)
    trial = make(replace(inputs, rng=np.random.default_rng(0)))  # for what it refuses, and how it is told
    return (Covering if trial.in_order else CoveringAnyOrder)(inputs, make)
