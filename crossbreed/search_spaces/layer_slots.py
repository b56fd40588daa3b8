"""Paths as indicators: all layers laid out in a row, several times, and those with an indicator above 0 are the path.

This is the data-flow space of arXiv 2403.13187, section 3.2.2: a row of `repetitions` times all layers of all sources,
and a scale for each hop from one layer to another. A smaller choice is a scale for each slot of the row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from crossbreed.search_spaces.axes import six_decimals
from crossbreed.search_spaces.layer_pool import LayerAt, LayerPool, PathCoordinate, layer_name
from crossbreed.types import LayerStep

Scales: TypeAlias = Literal["none", "slot", "hop"]
"""What has a scale of its own: nothing, each slot, or each hop from a layer to another."""
ON = 0.6
"""The indicator of a slot that a search starts with; the negative of one without. Two initial steps of `cma_es`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    layer: LayerAt
    label: str
    is_fixed: bool = False
    """Whether it is in every path."""


class Slots:
    """Coordinates for a row of slots."""

    def __init__(self, pool: LayerPool, *, repetitions: int, scales: Scales, bounds: tuple[float, float]) -> None:
        """Lays out the row.

        Args:
            pool: The layers.
            repetitions: How often all of them stand in the row.
            scales: What has a scale.
            bounds: The smallest and largest.
        """
        self._most, self._scales, self._bounds = pool.max_depth, scales, bounds
        self._slots = tuple(_row(pool, repetitions))
        self._fixed = frozenset(index for index, slot in enumerate(self._slots) if slot.is_fixed)
        self._free = tuple(index for index in range(len(self._slots)) if index not in self._fixed)
        self._scaled = tuple(range(self._slots[0].is_fixed, len(self._slots)))
        """The slots that may have a scale: what comes into a first layer that never changes has none."""
        hops = self._reachable() if scales == "hop" else ()
        self._hops = {hop: index for index, hop in enumerate(hops)}
        self.coordinates = tuple(self._coordinates())

    def path(self, values: Sequence[float]) -> list[LayerStep]:
        """Returns the path of a point. Of more slots than a path may have, those with the largest indicators count."""
        indicators = dict(zip(self._free, values, strict=False))
        ranked = sorted(self._free, key=lambda index: (-indicators[index], index))
        on = [index for index in ranked[: self._most - len(self._fixed)] if indicators[index] > 0]
        taken = sorted({*on, *self._fixed}) or ranked[:1]
        numbers = values[len(self._free) :]
        befores: list[int | None] = [None, *taken[:-1]]
        return [
            (*self._slots[index].layer, six_decimals(self._scale(before, index, numbers)))
            for before, index in zip(befores, taken, strict=True)
        ]

    def point(self, steps: Sequence[LayerStep]) -> list[float] | None:
        """Returns the nearest point to a path; None if the row does not contain it."""
        taken = self._matched([(source, number) for source, number, _ in steps])
        if taken is None:
            return None
        low, high = self._bounds
        found = [min(max(scale, low), high) for *_, scale in steps]
        if self._scales == "slot":
            at = dict(zip(taken, found, strict=True))
            numbers = [at.get(index, 1.0) for index in self._scaled]
        else:
            layers = [self._slots[index].layer for index in taken]
            by_hop = dict(zip(pairwise(layers), found[1:], strict=True))
            numbers = [by_hop.get(hop, 1.0) for hop in self._hops]
        return [*(ON if index in taken else -ON for index in self._free), *numbers]

    def _scale(self, before: int | None, index: int, numbers: Sequence[float]) -> float:
        if self._scales == "slot":
            return numbers[index - self._scaled[0]] if index >= self._scaled[0] else 1.0
        if self._scales == "none" or before is None:
            return 1.0
        return numbers[self._hops[self._slots[before].layer, self._slots[index].layer]]

    def _matched(self, layers: Sequence[LayerAt]) -> list[int] | None:
        """Returns the first slots of a path's layers, in order; None if there are none, or too many."""
        taken: list[int] = []
        for place, layer in enumerate(layers):
            is_end = bool(self._fixed) and place in (0, len(layers) - 1)
            found = (
                index
                for index in range(taken[-1] + 1 if taken else 0, len(self._slots))
                if self._slots[index].layer == layer and (index in self._fixed) is is_end
            )
            if (index := next(found, None)) is None:
                return None
            taken.append(index)
        return taken if 0 < len(taken) <= self._most and self._fixed <= set(taken) else None

    def _reachable(self) -> Iterator[tuple[LayerAt, LayerAt]]:
        """Yields the hops that some path has."""
        first, last = dict[LayerAt, int](), dict[LayerAt, int]()
        for index, slot in enumerate(self._slots):
            first.setdefault(slot.layer, index)
            last[slot.layer] = index
        return ((one, other) for one in first for other in last if first[one] < last[other])

    def _coordinates(self) -> Iterator[PathCoordinate]:
        for index in self._free:
            slot = self._slots[index]
            yield PathCoordinate(name=f"{slot.label}: in", low=-1.0, high=1.0, param="indicator", owner=slot.layer[0])
        low, high = self._bounds
        for index in self._scaled if self._scales == "slot" else ():
            slot = self._slots[index]
            yield PathCoordinate(name=f"{slot.label}: scale", low=low, high=high, param="scale", owner=slot.layer[0])
        for one, other in self._hops:
            name = f"{layer_name(one)} to {layer_name(other)}: scale"
            yield PathCoordinate(name=name, low=low, high=high, param="scale", owner=other[0])


def _row(pool: LayerPool, repetitions: int) -> Iterator[_Slot]:
    first, last = (pool.ends[:1], pool.ends[1:]) if pool.ends else ((), ())
    yield from (_Slot(layer=layer, label=f"first, {layer_name(layer)}", is_fixed=True) for layer in first)
    for repetition in range(repetitions):
        for layer in pool.layers:
            if layer not in pool.ends:
                yield _Slot(layer=layer, label=f"pass {repetition + 1}, {layer_name(layer)}")
    yield from (_Slot(layer=layer, label=f"last, {layer_name(layer)}", is_fixed=True) for layer in last)
