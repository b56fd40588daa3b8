"""A box as nevergrad's parameters: an array, or, if some coordinates are no numbers, a tuple of scalars and choices."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbreed.types import Levels

Unit = NDArray[np.float64]


class NevergradSpace:
    """Between points of the unit cube and values of nevergrad's candidates."""

    def __init__(self, levels: Mapping[int, Levels]) -> None:
        """Describes a box by the coordinates of it that are no numbers."""
        self._levels = levels

    def parameters(self, start: Unit, sigma: float) -> Any:
        """Returns what nevergrad searches, from a start and with a first step that is a fraction of each range."""
        import nevergrad as ng

        if not self._levels:
            space = ng.p.Array(init=start, lower=np.zeros(len(start)), upper=np.ones(len(start)))
            space.set_mutation(sigma=sigma)
            return space
        return ng.p.Tuple(*(self._parameter(index, share, sigma) for index, share in enumerate(self.value(start))))

    def value(self, unit: Unit) -> Any:
        """Returns the value of a candidate at a point."""
        if not self._levels:
            return unit
        shares = map(float, unit)
        return tuple(self._levels[i].at(share) if i in self._levels else share for i, share in enumerate(shares))

    def unit(self, value: Any) -> Unit:
        """Returns the point of a candidate's value."""
        if not self._levels:
            return np.asarray(value)
        middle = (self._levels[i].middle(round(x)) if i in self._levels else x for i, x in enumerate(value))
        return np.array([*middle], dtype=np.float64)

    def _parameter(self, index: int, value: float, sigma: float) -> Any:
        import nevergrad as ng

        if (levels := self._levels.get(index)) is None:
            return ng.p.Scalar(init=value, lower=0.0, upper=1.0).set_mutation(sigma=sigma)
        if levels.count < 2:
            return ng.p.Constant(0)
        if levels.is_ordered:
            last = levels.count - 1
            found = ng.p.Scalar(init=value, lower=0, upper=last).set_mutation(sigma=sigma * last)
            return found.set_integer_casting()
        found = ng.p.Choice(range(levels.count))
        found.value = int(value)
        return found
