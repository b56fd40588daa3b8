"""The layers that paths are made of, and what paths' coordinates are called."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from crossbreed.sources.naming import layer_of
from crossbreed.sources.structure import Structure
from crossbreed.types import BASE, Coordinate

LayerAt: TypeAlias = tuple[str, int]
"""A source and the number of one of its layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathCoordinate:
    """A coordinate of a space of paths."""

    name: str
    low: float
    high: float
    param: str
    owner: str | None = None

    @property
    def about(self) -> Coordinate:
        """As a box has it."""
        return Coordinate(param=self.param, owner=self.owner)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPool:
    """The layers that a path may take."""

    layers: tuple[LayerAt, ...]
    """All of the base's, and those of each expert that are not the base's: source by source, in order."""
    num_layers: int
    """The base's."""
    max_depth: int
    """The most layers of a path."""
    ends: tuple[LayerAt, ...]
    """The first and last layer of every path; empty: any."""

    @property
    def identity(self) -> tuple[LayerAt, ...]:
        """The base's own layers, in order."""
        return tuple((BASE, number) for number in range(self.num_layers))

    def sources_of(self, number: int) -> tuple[str, ...]:
        """Returns the sources that have a layer of this number of their own; the base is first."""
        return tuple(source for source, own in self.layers if own == number)


def make_pool(structure: Structure, experts: Collection[str], *, max_depth: int, keep_ends: bool) -> LayerPool:
    """Returns the layers of the base and of some experts.

    Args:
        structure: The structure of the sources.
        experts: The names of those whose layers may be taken.
        max_depth: The most layers of a path.
        keep_ends: Whether every path begins and ends with the base's first and last layer.
    """
    num_layers = structure.num_layers
    layers = [(BASE, number) for number in range(num_layers)]
    for name, touched in structure.touched.items():
        if name in experts:
            changed = {layer_of(tensor) for tensor in touched}
            layers += [(name, number) for number in range(num_layers) if number in changed]
    ends = ((BASE, 0), (BASE, num_layers - 1)) if keep_ends else ()
    return LayerPool(layers=tuple(layers), num_layers=num_layers, max_depth=max_depth, ends=ends)


def layer_name(layer: LayerAt) -> str:
    """Returns the name of a layer in those of coordinates.

    >>> layer_name(("french", 3))
    'french 3'
    """
    return f"{layer[0]} {layer[1]}"
