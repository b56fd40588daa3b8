"""The domain of Frank-Wolfe: blocks of coordinates, each with the vertices that a step can go towards."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossbreed.types import Box, SlopeKind, WeightBlock

Floats = NDArray[np.float64]

_ROUNDING = 1e-12
"""The relative rounding error allowed in a product of slopes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Coordinates that step together, and the polytope of those mixtures of some vertices that are inside the box."""

    coordinates: NDArray[np.intp]
    vertices: Floats
    """One row per vertex: an expert alone, or the base."""
    caps: Floats
    """The largest share of each vertex that the box has room for: 1 if the vertex itself is inside."""
    owned: Floats
    """One row per vertex: 1 in the columns of its own expert's coordinates, 0 elsewhere. The base's row is 0."""

    def direction(self, point: Floats, slopes: Floats, *, towards: int, kind: SlopeKind) -> Floats:
        """Returns the step of length 1 from here to the best vertex, or a mixture of the best; 0 if none is downhill.

        The linear minimisation oracle of Frank-Wolfe: a vertex v is downhill of x if <g, v - x> < 0. Cosines do not
        depend on x; by them a vertex is downhill if those of its own expert have a negative sum. Cosines with whole
        weights compare experts and do not show what is downhill: the smallest is taken, as published. Any share that
        the box denies the best vertex goes to the next best, which is the oracle of the polytope inside the box.

        Args:
            point: The block's current coordinates.
            slopes: One per coordinate.
            towards: How many vertices may share a step. With more than one, the shares are the projection onto the
                simplex of the descents, the steepest being 1: equal vertices get equal shares, and one that is much
                better than the others takes all.
            kind: The kind of the slopes.
        """
        rises = self.vertices @ slopes - point @ slopes if kind == "inner" else self.owned @ slopes
        rounding = _ROUNDING * float(np.abs(self.vertices).max() * np.abs(slopes).sum())
        downhill = math.inf if kind == "weight_cosine" else -rounding
        order = np.argsort(rises, stable=True)
        best = [j for j in order[:towards] if rises[j] < downhill]
        if best:
            shares = self._inside(_shares_of(best, rises), order)
            if shares @ rises < downhill:
                return np.asarray(shares @ self.vertices - point)
        return np.zeros_like(point)

    def mixture(self, shares: Floats) -> Floats:
        """Returns a point of the polytope; shares that the box has no room for are cut off."""
        return np.asarray(np.minimum(shares, self.caps) @ self.vertices)

    def _inside(self, shares: Floats, order: NDArray[np.intp]) -> Floats:
        """Returns the shares that the box has room for; the rest goes to other vertices, in this order."""
        kept = np.minimum(shares, self.caps)
        for j in order:
            kept[j] += min(1 - kept.sum(), self.caps[j] - kept[j])
        return kept


def _shares_of(best: Sequence[int], rises: Floats) -> Floats:
    """Returns each vertex's share of a step: only the best get one, steeper ones more."""
    shares = np.zeros(len(rises))
    shares[best] = project_to_simplex(-rises[best] / (np.abs(rises[best]).max() or 1.0))
    return shares


def blocks_of(
    weight_blocks: Sequence[WeightBlock],
    box: Box,
    *,
    scale: float,
    granularity: Literal["task", "layer"],
    base: bool,
) -> tuple[Block, ...]:
    """Returns one block per weight block, or one for all: then a vertex is one expert wherever it has a weight.

    Args:
        weight_blocks: Expert -> coordinate.
        box: The box that mixtures must lie in.
        scale: The coefficient of a vertex's expert. The others' are 0, or the smallest that the box allows.
        granularity: `layer` for a block each.
        base: Whether the base, where all coefficients are 0 or that smallest value, is a vertex too: the last.
    """
    parts = [[block] for block in weight_blocks] if granularity == "layer" else [list(weight_blocks)]
    return tuple(_block(part, box, scale=scale, base=base) for part in parts)


def _block(weight_blocks: Sequence[WeightBlock], box: Box, *, scale: float, base: bool) -> Block:
    coordinates = np.array([index for block in weight_blocks for index in block.values()])
    owners = [expert for block in weight_blocks for expert in block]
    lows, highs = np.maximum(np.take(box.low, coordinates), 0), np.take(box.high, coordinates)
    vertices, caps, owned = [], [], []
    for expert in dict.fromkeys(owners):
        own = np.array([owner == expert for owner in owners])
        vertex = np.where(own, np.maximum(scale, lows), lows)
        vertices.append(vertex)
        caps.append(_largest_share(room=(highs - lows)[own], way=(vertex - lows)[own]))
        owned.append(own.astype(float))
    if base:
        vertices.append(lows)
        caps.append(1.0)
        owned.append(np.zeros(len(lows)))
    return Block(coordinates=coordinates, vertices=np.array(vertices), caps=np.array(caps), owned=np.array(owned))


def _largest_share(*, room: Floats, way: Floats) -> float:
    """Returns the fraction of the way to a vertex that every coordinate has room for; 1 if the vertex is inside."""
    return float(np.divide(room, way, out=np.ones_like(way), where=way > room).clip(min=0).min())


def probes_of(weight_blocks: Sequence[WeightBlock], granularity: Literal["task", "layer"]) -> Iterator[list[int]]:
    """Yields the coordinates that are moved together to measure a slope: each by itself, or all of an expert."""
    if granularity == "layer":
        yield from ([index] for block in weight_blocks for index in block.values())
        return
    for expert in dict.fromkeys(expert for block in weight_blocks for expert in block):
        yield [block[expert] for block in weight_blocks if expert in block]


def project_to_simplex(values: Floats) -> Floats:
    """Returns the nearest non-negative numbers with sum 1 (Held, Wolfe and Crowder 1974).

    >>> project_to_simplex(np.array([1.0, 0.9, -3.0])).round(6).tolist()
    [0.55, 0.45, 0.0]
    """
    falling = np.sort(values)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(values) + 1)
    return np.asarray(np.maximum(values - excess[falling > excess][-1], 0))
