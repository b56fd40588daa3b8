"""A problem of mixed genes whose best point is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crossbreed.optimizer import SearchInputs
from crossbreed.types import Box, Coordinate, Levels, Outcome, Point, Status

_LEVELS = (None, None, Levels(count=4), Levels(count=2), Levels(count=2), Levels(count=6, is_ordered=True))
_RIGHT = (None, None, 2, 1, 0, 4)
_LOW, _HIGH = (-0.5, -0.5, 0.0, 0.0, 0.0, 0.0), (1.5, 1.5, 4.0, 1.0, 1.0, 6.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Two numbers (best: 0.9), three coordinates of alternatives and one of integers."""

    @property
    def num_levels(self) -> int:
        """Coordinates that are no numbers."""
        return 4

    def inputs(
        self, *, seed: int = 7, start: Point | None = None, of: Sequence[int] = range(len(_LEVELS))
    ) -> SearchInputs:
        """A search for it, or of some of its coordinates."""
        coordinates = tuple(Coordinate(param=f"gene {i}", levels=_LEVELS[i]) for i in of)
        box = Box(low=tuple(_LOW[i] for i in of), high=tuple(_HIGH[i] for i in of), coordinates=coordinates)
        return SearchInputs(domain=box, num_objectives=1, start=start, rng=np.random.default_rng(seed))

    def level(self, index: int, point: Point) -> int:
        """The level of a coordinate."""
        levels = _LEVELS[index]
        assert levels is not None
        return levels.at((point[index] - _LOW[index]) / (_HIGH[index] - _LOW[index]))

    def at_middles(self, point: Point) -> bool:
        """Whether all coordinates that are no numbers are at the middle of an interval."""
        shares = [(x - low) / (high - low) for x, low, high in zip(point, _LOW, _HIGH, strict=True)]
        return all(
            levels is None or np.isclose(share, levels.middle(levels.at(share)))
            for share, levels in zip(shares, _LEVELS, strict=True)
        )

    def num_right(self, point: Point) -> int:
        """How many of those coordinates are at their best level."""
        return sum(self.level(index, point) == right for index, right in enumerate(_RIGHT) if right is not None)

    def value(self, point: Point) -> float:
        """What is maximised; 0 is the best."""
        wrong = sum(self.level(i, point) != right for i, right in enumerate(_RIGHT[:-1]) if right is not None)
        away = abs(self.level(5, point) - 4) / 5
        return -((point[0] - 0.9) ** 2) - (point[1] - 0.9) ** 2 - 0.3 * wrong - 0.3 * away

    def outcome(self, number: int, point: Point) -> Outcome:
        """Of an evaluation that went well."""
        return Outcome(number=number, status=Status.OK, values=(self.value(point),))
