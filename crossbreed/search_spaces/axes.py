"""A parameter of an operator as a coordinate: its scale, and the rounding of the numbers in recipes.

Some parameters are searched on a log scale. A parameter with a limit is searched in fractions of it, so that every
point of the box is valid. Numbers are rounded, since recipes are read by people and equal merges should have equal
hashes: to the parameter's own grid (on which the kernels look densities up), to six significant digits on a log scale,
to six decimals elsewhere.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from crossbreed.recipes.operators import ParamKind, ParamSpec

ParamSetting: TypeAlias = tuple[float, float] | bool | float | str | Mapping[str, float]
"""A parameter's setting in a spec: a range to search, or a fixed value, for all experts or for each."""


class Key(NamedTuple):
    """A parameter or a coordinate, and its owner."""

    name: str
    owner: str | None
    """An expert or the base; None: the whole group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A searched parameter.

    >>> from crossbreed.recipes.operators import OPERATOR_SPECS
    >>> density = next(p for p in OPERATOR_SPECS["ties"].params if p.name == "density")
    >>> axis = Axis(param=density, low=0.25, high=1.0)
    >>> axis.label, axis.range, axis.value(axis.coordinate(0.5))
    ('ln density', (-1.3862943611198906, 0.0), 0.5)
    """

    param: ParamSpec
    low: float
    """Lower bound of the parameter, or of the fraction of its limit; `high` likewise."""
    high: float

    @property
    def label(self) -> str:
        """The searched quantity, as in the names of coordinates."""
        name = f"{self.param.name} as a part of its limit" if self.param.limit else self.param.name
        return f"ln {name}" if self.param.log_scale else name

    @property
    def range(self) -> tuple[float, float]:
        """Bounds of the coordinate."""
        return (math.log(self.low), math.log(self.high)) if self.param.log_scale else (self.low, self.high)

    def value(self, coordinate: float, *, limit: float | None = None) -> float:
        """Returns the parameter at a coordinate, rounded and valid."""
        number = math.exp(coordinate) if self.param.log_scale else coordinate
        if limit is not None:
            return limited(self.param, number, limit)
        low, high = self.low, self.high
        if (grid := grid_of(self.param)) is not None:
            low, high = math.ceil(low * grid) / grid, math.floor(high * grid) / grid
        return min(max(_round(self.param, number), low), high)

    def coordinate(self, value: float, *, limit: float | None = None) -> float:
        """Returns the coordinate nearest to a value: the inverse of `value`, clipped to the range."""
        number = value if limit is None else value / limit
        number = min(max(number, self.low), self.high)
        return math.log(number) if self.param.log_scale else number


def limited(param: ParamSpec, fraction: float, limit: float) -> float:
    """Returns a fraction of a limit, rounded but strictly below the limit."""
    value, steps = _round(param, fraction * limit), grid_of(param) or 10**6
    return value if value < limit else (math.ceil(limit * steps) - 1) / steps


def grid_of(param: ParamSpec) -> int | None:
    """Returns the number of search steps per unit; None if any value is allowed."""
    return 1 if param.integer else param.grid


def why_invalid_setting(param: ParamSpec, setting: ParamSetting) -> str | None:
    """Returns what a setting must do or be, to continue "must ..."; None if it is valid."""
    if isinstance(setting, Mapping):
        if not param.is_per_source:
            return "be one value: it is not a parameter of each expert"
        return next((fault for value in setting.values() if (fault := why_invalid_setting(param, value))), None)
    if not isinstance(setting, tuple) or param.kind in (ParamKind.FLAG, ParamKind.CHOICE, ParamKind.NAME):
        if param.limit and isinstance(setting, float):
            return None if 0 <= setting <= 1 else "be a fraction of its limit, from 0 to 1"
        fault = param.why_invalid(setting)
        return f"be {fault}" if fault else None
    low, high = setting
    if not low < high:
        return "have its lower bound first"
    if param.limit:
        return None if 0 <= low < high <= 1 else "be within [0, 1]: it is searched in fractions of its limit"
    if param.why_invalid(low) or param.why_invalid(high):
        return f"be within {_valid(param)}"
    if param.log_scale and low <= 0:
        return "be above 0: it is searched on a log scale"
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
    if param.log_scale:
        return float(f"{value:.6g}")
    return six_decimals(value)


def six_decimals(value: float) -> float:
    """Rounds a number, and turns -0.0 into 0.0."""
    return round(value, 6) + 0.0
