"""Paths by position: whose layer stands in the place of each of the base's, and how often: not at all, once, twice.

A path keeps the order of the base's layers, so that two coordinates a layer describe it. Choices are equal intervals of
a coordinate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from crossbreed.search_spaces.axes import six_decimals
from crossbreed.search_spaces.layer_pool import LayerPool, PathCoordinate
from crossbreed.types import BASE, LayerStep

_TIMES = 3
"""Not at all, once, twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Position:
    number: int
    sources: tuple[str, ...]
    source: int | None
    """The index of its coordinate; None: it is the base's."""
    times: int | None
    """Likewise; None: once."""
    scale: int | None
    """Likewise; None: 1."""


class Positions:
    """Coordinates for the positions of the base's layers."""

    def __init__(self, pool: LayerPool, *, has_scales: bool, bounds: tuple[float, float]) -> None:
        """Lays out the coordinates.

        Args:
            pool: The layers.
            has_scales: Whether what comes into a position's layer is scaled.
            bounds: The smallest and largest scale.
        """
        self._most, self._bounds = pool.max_depth, bounds
        self._ends = {number for _, number in pool.ends}
        found: list[PathCoordinate] = []
        self._positions = tuple(self._laid_out(pool, has_scales, found))
        self.coordinates = tuple(found)

    def path(self, values: Sequence[float]) -> list[LayerStep]:
        """Returns the path of a point; repeats beyond the most layers of a path are left out, the last ones first."""
        times = {position.number: self._times(position, values) for position in self._positions}
        if not any(times.values()):
            most = max(self._positions, key=lambda position: (values[position.times or 0], -position.number))
            times[most.number] = 1
        room = self._most - sum(count > 0 for count in times.values())
        steps: list[LayerStep] = []
        for position in self._positions:
            count = times[position.number]
            if count > 1:
                count, room = (count, room - 1) if room > 0 else (1, room)
            source = position.sources[_choice(values, position.source, len(position.sources))]
            scale = 1.0 if position.scale is None else six_decimals(values[position.scale])
            steps += [(source, position.number, scale)] * count
        return steps

    def point(self, steps: Sequence[LayerStep]) -> list[float] | None:
        """Returns the nearest point to a path; None if it has another order."""
        found: dict[int, tuple[LayerStep, int]] = {}
        for step, same in groupby(steps):
            if step[1] <= max(found, default=-1) or (count := len([*same])) >= _TIMES:
                return None
            found[step[1]] = step, count
        if not found or len(steps) > self._most:
            return None
        values = [1.0] * len(self.coordinates)
        low, high = self._bounds
        for position in self._positions:
            (source, _, scale), count = found.get(position.number, ((BASE, position.number, 1.0), 0))
            is_fixed = position.times is None and (source, count) != (BASE, 1)
            if source not in position.sources or is_fixed:
                return None
            if position.source is not None:
                values[position.source] = position.sources.index(source) + 0.5
            if position.times is not None:
                values[position.times] = count + 0.5
            if position.scale is not None:
                values[position.scale] = min(max(scale, low), high)
        return values

    def _times(self, position: _Position, values: Sequence[float]) -> int:
        return 1 if position.times is None else _choice(values, position.times, _TIMES)

    def _laid_out(self, pool: LayerPool, has_scales: bool, found: list[PathCoordinate]) -> Iterator[_Position]:
        def add(number: int, param: str, low: float, high: float) -> int:
            found.append(PathCoordinate(name=f"layer {number}: {param}", low=low, high=high, param=param))
            return len(found) - 1

        for number in range(pool.num_layers):
            is_end = number in self._ends
            sources = (BASE,) if is_end else pool.sources_of(number)
            yield _Position(
                number=number,
                sources=sources,
                source=add(number, "source", 0.0, float(len(sources))) if len(sources) > 1 else None,
                times=None if is_end else add(number, "times", 0.0, float(_TIMES)),
                scale=add(number, "scale", *self._bounds) if has_scales and not (is_end and number == 0) else None,
            )


def _choice(values: Sequence[float], index: int | None, count: int) -> int:
    """Returns the number of the interval that a coordinate is in."""
    return 0 if index is None else min(int(values[index]), count - 1)
