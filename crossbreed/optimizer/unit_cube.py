"""The box as a unit cube, so that one step size fits coordinates of every range (weights, log densities, genes)."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossbreed.types import Box, Levels, Point


def to_unit(box: Box, point: Point) -> NDArray[np.float64]:
    """Returns the point in the cube, clipped to it; a coordinate with an empty range is at 0.5.

    >>> to_unit(Box(low=(-0.5, 3.0), high=(1.5, 3.0)), (0.0, 3.0)).tolist()
    [0.25, 0.5]
    """
    low, width = np.array(box.low), np.subtract(box.high, box.low)
    unit = np.full(box.dim, 0.5)
    np.divide(np.subtract(point, low), width, out=unit, where=width > 0)
    return unit.clip(0.0, 1.0)


def from_unit(box: Box, unit: ArrayLike) -> Point:
    """Returns the point of the box, clipped to it after rounding.

    >>> from_unit(Box(low=(-0.5,), high=(1.5,)), [0.25])
    (0.0,)
    """
    inside = np.clip(box.low + np.asarray(unit) * np.subtract(box.high, box.low), box.low, box.high)
    return tuple(float(value) for value in inside)


def declared_levels(box: Box) -> Mapping[int, Levels]:
    """Returns the coordinates that are no numbers, if the box says of some what they are.

    A choice of operators alone stays a number: runs that were recorded when all were numbers go on as they began.

    >>> declared_levels(Box(low=(0.0,), high=(3.0,), choices=3))
    {}
    """
    return box.levels if any(coordinate.levels is not None for coordinate in box.coordinates) else {}
