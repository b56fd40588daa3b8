"""A parameter of an operator as a coordinate: what a step along it is, and which numbers a recipe gets.

What is searched by ratio is stepped along by its logarithm. A parameter with a limit is searched in fractions of it, so
that every point of the box is valid. Numbers are rounded, since a recipe is read by people and equal merges should have
equal hashes: to the parameter's own grid (on which the kernels look densities up), to six digits where ratios count, to
six decimals elsewhere.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from crossbreed.operators import ParamKind, ParamSpec

Setting: TypeAlias = tuple[float, float] | bool | float | str | Mapping[str, float]
"""What a spec says of a parameter: its range, or what it is fixed at, for all experts or for each."""


class Key(NamedTuple):
    """A parameter or a coordinate, and whose it is."""

    name: str
    taker: str | None
    """An expert or the base; None: the whole group's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A parameter that is searched.

    >>> from crossbreed.operators import OPERATOR_SPECS
    >>> density = next(p for p in OPERATOR_SPECS["ties"].params if p.name == "density")
    >>> axis = Axis(param=density, low=0.25, high=1.0)
    >>> axis.label, axis.range, axis.value(axis.coordinate(0.5))
    ('ln density', (-1.3862943611198906, 0.0), 0.5)
    """

    param: ParamSpec
    low: float
    """Bounds of the parameter, or of the fraction of its limit."""
    high: float

    @property
    def label(self) -> str:
        """What is stepped along, for the names of coordinates."""
        name = f"{self.param.name} as a part of its limit" if self.param.limit else self.param.name
        return f"ln {name}" if self.param.by_ratio else name

    @property
    def range(self) -> tuple[float, float]:
        """Bounds of the coordinate."""
        return (math.log(self.low), math.log(self.high)) if self.param.by_ratio else (self.low, self.high)

    def value(self, coordinate: float, *, limit: float | None = None) -> float:
        """Returns the parameter at a coordinate, rounded and valid."""
        number = math.exp(coordinate) if self.param.by_ratio else coordinate
        if limit is not None:
            return limited(self.param, number, limit)
        low, high = self.low, self.high
        if (grid := grid_of(self.param)) is not None:
            low, high = math.ceil(low * grid) / grid, math.floor(high * grid) / grid
        return min(max(_round(self.param, number), low), high)

    def coordinate(self, value: float, *, limit: float | None = None) -> float:
        """Returns the coordinate nearest to a value: the inverse of `value`, clipped into the range."""
        number = value if limit is None else value / limit
        number = min(max(number, self.low), self.high)
        return math.log(number) if self.param.by_ratio else number


def limited(param: ParamSpec, fraction: float, limit: float) -> float:
    """Returns a fraction of a limit, rounded, and less than the limit itself."""
    value, steps = _round(param, fraction * limit), grid_of(param) or 10**6
    return value if value < limit else (math.ceil(limit * steps) - 1) / steps


def grid_of(param: ParamSpec) -> int | None:
    """Returns how many steps of a search make up 1, or None where it takes any."""
    return 1 if param.integer else param.grid


def fault_of(param: ParamSpec, setting: Setting) -> str | None:
    """Returns what a setting of a parameter must be, or None when it is possible."""
    if isinstance(setting, Mapping):
        if not param.of_each:
            return "be one value: experts have none of their own"
        return next((fault for value in setting.values() if (fault := fault_of(param, value))), None)
    if not isinstance(setting, tuple) or param.kind in (ParamKind.FLAG, ParamKind.CHOICE, ParamKind.NAME):
        if param.limit and isinstance(setting, float):
            return None if 0 <= setting <= 1 else "be a fraction of its limit, from 0 to 1"
        fault = param.fault(setting)
        return f"be {fault}" if fault else None
    low, high = setting
    if not low < high:
        return "have its lower bound first"
    if param.limit:
        return None if 0 <= low < high <= 1 else "stay within [0, 1]: it is searched in fractions of its limit"
    if param.fault(low) or param.fault(high):
        return f"stay within {_valid(param)}"
    if param.by_ratio and low <= 0:
        return "stay above 0: it is searched by its logarithm"
    if (grid := grid_of(param)) and not math.ceil(low * grid) < math.floor(high * grid):
        return f"have a wider range: it is searched in steps of 1/{grid}"
    return None


def _valid(param: ParamSpec) -> str:
    low = f"({param.above:g}" if param.above >= param.at_least else f"[{param.at_least:g}"
    high = f"{param.below:g})" if param.below <= param.at_most else f"{param.at_most:g}]"
    return f"{low}, {high}" + (", in whole numbers" if param.integer else "")


def _round(param: ParamSpec, value: float) -> float:
    if (grid := grid_of(param)) is not None:
        return round(value * grid) / grid
    if param.by_ratio:
        return float(f"{value:.6g}")
    return six_decimals(value)


def six_decimals(value: float) -> float:
    """Rounds a number; there is no -0.0 in a recipe."""
    return round(value, 6) + 0.0
