"""Layer-wise coefficients: how much of each expert goes into each group of tensors.

Every coordinate has an effect (a dead one costs a rank-based search as much as a live one), so each operator has a
parameterisation of its own:

`task_arithmetic`  one weight an expert: W = W0 + sum(w d).
`ties`             one weight and one density an expert, *not* normalised: with normalisation only the ratios of the
                   weights count. Density is searched by its logarithm: from 0.1 to 0.2 is as far as from 0.5 to 1.
`linear`           shares of a whole, the base's being what the experts leave. A coordinate is the part that an expert
                   takes of what those before it have left, so that every point is a mixture and every mixture a point.

With a list of operators the choice is a coordinate too, and those that the chosen operator does not read wait.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, model_validator

from crossbreed.config import Config
from crossbreed.search_spaces.groups import Group, GroupsConfig, make_groups
from crossbreed.search_spaces.mix import Mix, mixes_of
from crossbreed.sources.structure import Structure
from crossbreed.types import ParamValue, Point, Recipe, Rule

Axis: TypeAlias = Literal["share", "weight", "density"]
Values: TypeAlias = Mapping[Axis, Mapping[str, float]]
"""Coordinates of one group: axis -> expert -> value."""

AXES: Mapping[str, tuple[Axis, ...]] = {
    "task_arithmetic": ("weight",),
    "linear": ("share",),
    "ties": ("weight", "density"),
}
"""Operator -> what it reads of an expert. In the order in which operators stand in for one another when a recipe of a
kind that the space does not have is encoded."""


def _increasing(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"the lower bound comes first: expected low < high, got [{bounds[0]:g}, {bounds[1]:g}]")
    return bounds


Range: TypeAlias = Annotated[tuple[float, float], AfterValidator(_increasing)]
"""Lower and upper bound of a coordinate."""


class CoefficientsConfig(Config):
    """Bands of layers x module types, each with coefficients of its own for each expert that touches it."""

    kind: Literal["coefficients"] = "coefficients"
    operator: str | list[str] = "task_arithmetic"
    """`task_arithmetic`, `ties`, `linear`; a list makes the operator one more coordinate."""
    groups: GroupsConfig = GroupsConfig()
    """Which tensors share coefficients."""
    weight: Range = (-0.5, 1.5)
    """Range of the weights on deltas (task_arithmetic, ties). Negative unlearns."""
    density: Range = (0.1, 1.0)
    """Range of the share of each delta that is kept (ties)."""

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators, in order and once each."""
        return tuple(dict.fromkeys([self.operator] if isinstance(self.operator, str) else self.operator))

    @property
    def axes(self) -> tuple[Axis, ...]:
        """What the operators read of an expert, once each."""
        return tuple(dict.fromkeys(axis for name in self.operators for axis in AXES[name]))

    @model_validator(mode="after")
    def _fits_together(self) -> "CoefficientsConfig":
        if not self.operators:
            raise ValueError("`operator` is an empty list: name at least one operator")
        for name in self.operators:
            if name not in AXES:
                close = get_close_matches(name, AXES, n=1)
                hint = f"; did you mean `{close[0]}`?" if close else ""
                raise ValueError(f"unknown operator `{name}`{hint} (this space has {', '.join(AXES)})")
        for axis in ("weight", "density"):
            if axis not in self.axes and getattr(self, axis) != type(self).model_fields[axis].default:
                raise ValueError(f"`{axis}` has no effect: {' and '.join(self.operators)} does not read it; remove it")
        if self.density[0] <= 0 or self.density[1] > 1:
            raise ValueError(f"`density` must stay within (0, 1], got [{self.density[0]:g}, {self.density[1]:g}]")
        return self


def build_space(config: CoefficientsConfig, structure: Structure, dtype: str) -> "CoefficientSpace":
    """Builds the space over a base and its experts.

    Args:
        config: The `space` section of a spec.
        structure: The base's tensors, and which of them each expert changes.
        dtype: What decoded recipes round their tensors to.

    Raises:
        InputError: the groups do not fit the base, or no expert differs from it.
    """
    return CoefficientSpace(config, structure, dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coordinate:
    group: int
    expert: str
    axis: Axis
    name: str
    low: float
    high: float


class CoefficientSpace:
    """Coordinates by group, axis and expert; before them the operator's, if there are several."""

    def __init__(self, config: CoefficientsConfig, structure: Structure, dtype: str) -> None:
        self._operators, self._hashes, self._dtype = config.operators, dict(structure.hashes), dtype
        self._groups = make_groups(config.groups, structure)
        self._coordinates = tuple(_coordinates(config, self._groups))
        self._is_gene = len(self._operators) > 1

    @property
    def low(self) -> Point:
        """Lower corner of the box."""
        return (0.0,) * self._is_gene + tuple(c.low for c in self._coordinates)

    @property
    def high(self) -> Point:
        """Upper corner of the box."""
        return (float(len(self._operators)),) * self._is_gene + tuple(c.high for c in self._coordinates)

    @property
    def names(self) -> tuple[str, ...]:
        """For example `layers 0-9 / mlp / french: weight`."""
        return ("operator",) * self._is_gene + tuple(c.name for c in self._coordinates)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups, in the order of a decoded recipe's rules."""
        return self._groups

    def decode(self, point: Point) -> Recipe:
        """Returns one rule a group, its coefficients rounded to six decimals."""
        assert len(point) == len(self.names)
        gene, values = point[: self._is_gene], point[self._is_gene :]
        operator = self._operators[min(int(gene[0]), len(self._operators) - 1) if gene else 0]
        per_group: list[dict[Axis, dict[str, float]]] = [{} for _ in self._groups]
        for coordinate, value in zip(self._coordinates, values, strict=True):
            per_group[coordinate.group].setdefault(coordinate.axis, {})[coordinate.expert] = value
        rules = (
            Rule(match=group.match, operator=operator, params=_params(operator, axes))
            for group, axes in zip(self._groups, per_group, strict=True)
        )
        return Recipe(base="base", sources=self._hashes, rules=tuple(rules), dtype=self._dtype)

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the nearest point: exact for recipes of this space, averaged and clipped for others.

        An operator that the space lacks is replaced by one that does the same to the deltas, or, for `ties`, does so
        where signs agree. Trimmed deltas, other sources and mixed operators have no point.
        """
        mixes = mixes_of(recipe, self._groups, self._hashes)
        if mixes is None:
            return None
        used = {mix.operator for mix in mixes if mix.operator is not None}
        operator = self._stand_in(used.pop() if used else None)
        if used or operator is None:
            return None
        values = [_axis_values(coordinate.axis, mixes[coordinate.group]) for coordinate in self._coordinates]
        gene = (self._operators.index(operator) + 0.5,) * self._is_gene
        return gene + tuple(
            min(max(value[c.expert], c.low), c.high) for c, value in zip(self._coordinates, values, strict=True)
        )

    def _stand_in(self, operator: str | None) -> str | None:
        if operator in self._operators:
            return operator
        return None if operator == "ties" else next(name for name in AXES if name in self._operators)


def _coordinates(config: CoefficientsConfig, groups: Sequence[Group]) -> Iterator[_Coordinate]:
    bounds: dict[Axis, tuple[str, tuple[float, float]]] = {
        "share": ("share of what is left", (0.0, 1.0)),
        "weight": ("weight", config.weight),
        "density": ("ln density", (math.log(config.density[0]), math.log(config.density[1]))),
    }
    for index, group in enumerate(groups):
        for axis in config.axes:
            label, (low, high) = bounds[axis]
            for expert in group.experts:
                name = f"{group.label} / {expert}: {label}"
                yield _Coordinate(group=index, expert=expert, axis=axis, name=name, low=low, high=high)


def _round(value: float) -> float:
    return round(value, 6) + 0.0  # + 0.0: there is no -0.0 in a recipe


def _params(operator: str, values: Values) -> dict[str, ParamValue]:
    """A group's coordinates, as the operator's parameters."""
    if operator == "linear":
        left, weight = 1.0, {}
        for expert, share in values["share"].items():
            weight[expert] = _round(share * left)
            left = max(0.0, left - weight[expert])
        return {"weight": {"base": _round(left), **weight}}
    weights = {expert: _round(value) for expert, value in values["weight"].items()}
    if operator == "task_arithmetic":
        return {"weight": weights}
    density = {expert: _round(math.exp(value)) for expert, value in values["density"].items()}
    return {"weight": weights, "density": density, "normalize": False}


def _axis_values(axis: Axis, mix: Mix) -> Mapping[str, float]:
    """The inverse of `_params` along one axis, before it is clipped into the box."""
    if axis == "weight":
        return mix.weight
    if axis == "density":
        return {expert: math.log(value) for expert, value in mix.density.items()}
    weights = {expert: max(0.0, value) for expert, value in mix.weight.items()}
    whole = max(1.0, sum(weights.values()))  # more than a whole: keep the experts' ratios, leave nothing to the base
    left, shares = 1.0, {}
    for expert, value in weights.items():
        shares[expert] = min(1.0, value / whole / left) if left > 0 else 0.0
        left = max(0.0, left - value / whole)
    return shares
