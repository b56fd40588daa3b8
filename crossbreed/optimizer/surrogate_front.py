"""The Pareto front of a model that costs nothing: NSGA-II (doi 10.1109/4235.996017) in arrays, a generation at a time.

Optuna's has a cost per trial that is right for models of minutes, and a hundred times too much for thousands of points
of a quadratic.
"""

from collections.abc import Callable
from typing import TypeAlias

import moocore
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Predict: TypeAlias = Callable[[Array], tuple[Array, Array]]
"""Points, one a row -> their values, more is better, and how far off the constraints they are."""
_ETA = 20.0
"""Distribution index of crossover and mutation."""
_CROSSOVER = 0.9


def front_of(
    predict: Predict, seeds: Array, *, rng: np.random.Generator, population: int = 80, generations: int = 60
) -> Array:
    """Returns the last population, the least dominated and least crowded first.

    Args:
        predict: The model.
        seeds: Points of the unit cube in the first population, one a row; the others are uniform.
        rng: Draws everything.
        population: Its size.
        generations: Their number.
    """
    dim = seeds.shape[1]
    points = np.vstack([seeds, rng.random((max(0, population - len(seeds)), dim))])
    points = points[_order(*predict(points))][:population]
    for _ in range(generations):
        # tournaments of two: the population is in order, so the smaller index wins
        parents = points[rng.integers(population, size=(population, 2)).min(axis=1)]
        children = _mutated(_crossed(parents, rng), rng)
        points = np.vstack([points, children])
        points = points[_order(*predict(points))][:population]
    return points


def _order(values: Array, off: Array) -> NDArray[np.intp]:
    """Returns indices: what keeps the constraints by rank and crowding, then the others by how far off they are."""
    ranks = np.full(len(values), np.inf)
    kept = off <= 0
    if kept.any():
        ranks[kept] = moocore.pareto_rank(values[kept], maximise=True)
    crowding = np.zeros(len(values))
    for rank in np.unique(ranks[kept]):
        crowding[ranks == rank] = _crowding(values[ranks == rank])
    return np.asarray(np.lexsort((-crowding, ranks, np.where(kept, 0.0, off))))


def _crowding(values: Array) -> Array:
    """Returns the sum, over objectives, of the distance between each point's neighbours; the ends have the most."""
    found = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, stable=True)
        ordered = column[order]
        span = ordered[-1] - ordered[0] or 1.0
        found[order[[0, -1]]] += 10.0
        found[order[1:-1]] += (ordered[2:] - ordered[:-2]) / span
    return found


def _crossed(parents: Array, rng: np.random.Generator) -> Array:
    """Returns children of each pair of neighbours, by simulated binary crossover."""
    first, second = parents[::2], parents[1::2]
    drawn = rng.random(first.shape)
    with np.errstate(divide="ignore"):
        spread = np.where(drawn < 0.5, 2 * drawn, 1 / (2 - 2 * drawn)) ** (1 / (_ETA + 1))
    spread[rng.random(len(first)) > _CROSSOVER] = 1.0
    spread[rng.random(first.shape) < 0.5] = 1.0
    middle, half = (first + second) / 2, spread * (second - first) / 2
    return np.asarray(np.clip(np.vstack([middle - half, middle + half]), 0.0, 1.0))


def _mutated(points: Array, rng: np.random.Generator) -> Array:
    """Returns points of which about one coordinate each has moved, by polynomial mutation."""
    drawn = rng.random(points.shape)
    step = np.where(drawn < 0.5, (2 * drawn) ** (1 / (_ETA + 1)) - 1, 1 - (2 - 2 * drawn) ** (1 / (_ETA + 1)))
    is_moved = rng.random(points.shape) < 1 / points.shape[1]
    return np.asarray(np.clip(points + np.where(is_moved, step, 0.0), 0.0, 1.0))
