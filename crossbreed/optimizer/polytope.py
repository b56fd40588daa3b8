"""What Frank-Wolfe walks in: blocks of coordinates, and in each the corners that a step may go towards."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossbreed.optimizer.protocol import Box, Hull
from crossbreed.types import SlopeKind

Floats = NDArray[np.float64]

_ROUNDING = 1e-12
"""Of a product of slopes, what its rounding may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Coordinates that step together, and the polytope of the mixtures of some vertices that are inside the box."""

    coordinates: NDArray[np.intp]
    vertices: Floats
    """One row a vertex."""
    caps: Floats
    """The largest share of each vertex that the box has room for: 1, where the vertex itself is inside."""
    owned: Floats
    """One row a vertex: 1 for the coordinates of its own expert, 0 elsewhere, and all 0 for the base."""

    def direction(self, point: Floats, slopes: Floats, *, towards: int, kind: SlopeKind) -> Floats:
        """Returns the step of length 1 from here to the best vertex, or a mixture of the best; 0 if none is downhill.

        The linear minimisation oracle of Frank-Wolfe: a vertex v is downhill of x if <g, v - x> < 0. Cosines know
        nothing of places; by them a vertex is downhill if those of its own expert have a negative sum. Those with whole
        weights tell experts apart and not up from down: the least is taken, as published. What the box does not let the
        best vertex have goes to the next best, which is the oracle of the polytope inside the box.

        Args:
            point: Where the block is.
            slopes: One a coordinate.
            towards: How many vertices may share a step. With more than one, the shares are the projection onto the
                simplex of the descents, the steepest being 1: equal vertices share alike, and one that is much better
                than the others takes all.
            kind: Of the slopes.
        """
        rises = self.vertices @ slopes - point @ slopes if kind == "inner" else self.owned @ slopes
        rounding = _ROUNDING * float(np.abs(self.vertices).max() * np.abs(slopes).sum())
        order = np.argsort(rises, stable=True)
        downhill = math.inf if kind == "weight_cosine" else -rounding
        best = [j for j in order[:towards] if rises[j] < downhill]
        if not best:
            return np.zeros_like(point)
        wanted = np.zeros(len(rises))
        wanted[best] = project_to_simplex(-rises[best] / (np.abs(rises[best]).max() or 1.0))
        shares = np.minimum(wanted, self.caps)
        for j in order:
            shares[j] += min(1 - shares.sum(), self.caps[j] - shares[j])
        return np.asarray(shares @ self.vertices - point) if shares @ rises < downhill else np.zeros_like(point)

    def mixture(self, shares: Floats) -> Floats:
        """Returns a point of the polytope; what the box has no room for is left out."""
        return np.asarray(np.minimum(shares, self.caps) @ self.vertices)


def blocks_of(
    hulls: Sequence[Hull], box: Box, *, scale: float, granularity: Literal["task", "layer"], base: bool
) -> tuple[Block, ...]:
    """Returns a block for each hull, or for all together: then a vertex is one expert's in every hull that has it.

    Args:
        hulls: Vertex -> coordinate.
        box: What mixtures must be inside.
        scale: The coefficient of a vertex's expert. The others' are 0, or the least that the box lets them be.
        granularity: `layer` for a block each.
        base: Whether the base, where all coefficients are 0 or that least, is a vertex too: the last.
    """
    parts = [[hull] for hull in hulls] if granularity == "layer" else [list(hulls)]
    return tuple(_block(part, box, scale=scale, base=base) for part in parts)


def _block(hulls: Sequence[Hull], box: Box, *, scale: float, base: bool) -> Block:
    coordinates = np.array([index for hull in hulls for index in hull.values()])
    owners = [vertex for hull in hulls for vertex in hull]
    lows, highs = np.maximum(np.take(box.low, coordinates), 0), np.take(box.high, coordinates)
    rows, caps, owned = [], [], []
    for vertex in dict.fromkeys(owners):
        own = np.array([owner == vertex for owner in owners])
        owned.append(own.astype(float))
        rows.append(np.where(own, np.maximum(scale, lows), lows))
        room, way = (highs - lows)[own], (rows[-1] - lows)[own]
        caps.append(float(np.divide(room, way, out=np.ones_like(way), where=way > room).clip(min=0).min()))
    return Block(
        coordinates=coordinates,
        vertices=np.array(rows + [lows] * base),
        caps=np.array(caps + [1.0] * base),
        owned=np.array(owned + [np.zeros(len(lows))] * base),
    )


def probes_of(hulls: Sequence[Hull], granularity: Literal["task", "layer"]) -> Iterator[list[int]]:
    """Yields the coordinates that are moved together to find a slope: each by itself, or all of a vertex."""
    if granularity == "layer":
        yield from ([index] for hull in hulls for index in hull.values())
        return
    for vertex in dict.fromkeys(vertex for hull in hulls for vertex in hull):
        yield [hull[vertex] for hull in hulls if vertex in hull]


def project_to_simplex(values: Floats) -> Floats:
    """Returns the nearest non-negative numbers with sum 1 (Held, Wolfe and Crowder 1974).

    >>> project_to_simplex(np.array([1.0, 0.9, -3.0])).round(6).tolist()
    [0.55, 0.45, 0.0]
    """
    falling = np.sort(values)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(values) + 1)
    return np.asarray(np.maximum(values - excess[falling > excess][-1], 0))
