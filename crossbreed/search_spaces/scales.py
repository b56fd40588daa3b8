"""Scales of a recipe: one factor for each group of tensors on all that the recipe changes there.

A cheap polish of any recipe, whatever made it: a regression, a search, thousands of coefficients. The factor multiplies
the merged delta of every rule (its depth profile, which every operator has), so that 1 everywhere is the recipe itself
and 0 everywhere the base.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isclose
from typing import Annotated, Literal

from pydantic import AfterValidator

from crossbreed.recipes import rule_finder
from crossbreed.recipes.named import weighted_deltas
from crossbreed.recipes.operators import DEPTH_PROFILE, ParamSpec
from crossbreed.search_spaces.axes import six_decimals
from crossbreed.search_spaces.boxes import BoxSpace
from crossbreed.search_spaces.build import SpacePart
from crossbreed.search_spaces.coefficients_config import Range
from crossbreed.search_spaces.groups import Group, GroupsConfig, make_groups, pattern_of
from crossbreed.search_spaces.settings import SpaceConfig, SpaceInputs
from crossbreed.types import Box, Coordinate, ParamValue, Point, Recipe, Rule


def _holds_one(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < 1 < bounds[1]:
        raise ValueError(f"a factor starts at 1: expected low < 1 < high, got [{bounds[0]:g}, {bounds[1]:g}]")
    return bounds


class ScalesConfig(SpaceConfig):
    """Factors on the best recipe so far, one for each group of tensors: a polish of what other stages found."""

    kind: Literal["scales"] = "scales"
    groups: GroupsConfig = GroupsConfig()
    """The groups of tensors that share a factor."""
    factor: Annotated[Range, AfterValidator(_holds_one)] = (0.6, 1.4)
    """Range of the factors. The search starts at 1, the recipe itself."""

    @property
    def operators(self) -> tuple[str, ...]:
        """None of its own: those of the recipe."""
        return ()

    @property
    def is_around(self) -> bool:
        """See SpaceConfig."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The tensors of a group to which a rule of the recipe applies."""

    group: int
    rule: Rule
    match: str


class ScaleSpace(BoxSpace):
    """One coordinate for each group that some expert changes."""

    def __init__(self, config: ScalesConfig, inputs: SpaceInputs) -> None:
        """Splits the rules of the recipe by groups; of no recipe, those of the uniform merge.

        Raises:
            InputError: the groups do not fit the sources, or no expert differs from the base.
        """
        structure = inputs.structure
        experts = structure.experts
        uniform = weighted_deltas(
            dict.fromkeys(experts, 1.0 / len(experts)), hashes=structure.hashes, dtype=inputs.dtype
        )
        self._recipe = inputs.around or uniform
        self._groups = make_groups(config.groups, structure)
        self._tensors = structure.tensors
        self._parts = tuple(self._split())
        low, high = config.factor
        self._domain = Box(
            low=(low,) * len(self._groups),
            high=(high,) * len(self._groups),
            why_no_weight_blocks="factors of whole recipes are searched, not the weights of experts",
            coordinates=tuple(Coordinate(param="factor") for _ in self._groups),
        )

    @property
    def domain(self) -> Box:
        """The box, which does not depend on the recipe."""
        return self._domain

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the coordinates, for example `layers 0-9 / mlp: factor`."""
        return tuple(f"{group.label}: factor" for group in self._groups)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups."""
        return self._groups

    def describe(self) -> str:
        """Returns the number of factors."""
        return f"{len(self._groups)} factor{'s' * (len(self._groups) != 1)}"

    def decode(self, point: Point) -> Recipe:
        """Returns the recipe with its deltas scaled; at 1 everywhere the recipe itself."""
        factors = tuple(map(six_decimals, point))
        if all(factor == 1.0 for factor in factors):
            return self._recipe
        rules = tuple(
            Rule(match=part.match, operator=part.rule.operator, params=_scaled(part.rule, factors[part.group]))
            for part in self._parts
        )
        return replace(self._recipe, rules=rules)

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the factors of a recipe that this space can express, clipped to their range; None of any other.

        A group that the recipe leaves as the base has it, whatever the factor, counts as 1.
        """
        if replace(recipe, rules=()) != replace(self._recipe, rules=()):
            return None
        found, theirs = dict[int, float](), rule_finder(recipe)
        ours = rule_finder(self._recipe)
        for index, group in enumerate(self._groups):
            for name in group.tensors:
                mine, other = ours(name), theirs(name)
                if mine is None and other is None:
                    continue
                factor = None if mine is None or other is None else _factor(mine, other)
                if factor is None or not isclose(factor, found.setdefault(index, factor), abs_tol=1e-6):
                    return None
        low, high = self._domain.low[0], self._domain.high[0]
        return tuple(min(max(six_decimals(found.get(i, 1.0)), low), high) for i in range(len(self._groups)))

    def _split(self) -> Iterator[_Part]:
        """Yields the rules of the recipe, each for the tensors of one group alone."""
        find = rule_finder(self._recipe)
        for index, group in enumerate(self._groups):
            members: dict[int, tuple[Rule, list[str]]] = {}
            for name in group.tensors:
                if (rule := find(name)) is not None:
                    members.setdefault(id(rule), (rule, []))[1].append(name)
            for rule, names in members.values():
                yield _Part(group=index, rule=rule, match=pattern_of(names, frozenset(names), self._tensors))


def _scaled(rule: Rule, factor: float) -> Mapping[str, ParamValue]:
    """Returns the parameters of a rule whose merged delta is to be multiplied."""
    profile = {param.name: factor * _number(rule, param) for param in DEPTH_PROFILE}
    changed = {param.name: profile[param.name] for param in DEPTH_PROFILE if profile[param.name] != param.default}
    return {name: value for name, value in rule.params.items() if name not in profile} | changed


def _factor(mine: Rule, other: Rule) -> float | None:
    """Returns the factor that makes one rule of another; None if none does."""
    names = [param.name for param in DEPTH_PROFILE]
    rest = [{name: value for name, value in rule.params.items() if name not in names} for rule in (mine, other)]
    if mine.operator != other.operator or rest[0] != rest[1]:
        return None
    pairs = [(_number(mine, param), _number(other, param)) for param in DEPTH_PROFILE]
    known = [after / before for before, after in pairs if before]
    factor = known[0] if known else 1.0
    agree = all(isclose(after, factor * before, rel_tol=1e-6, abs_tol=1e-6) for before, after in pairs)
    return factor if agree else None


def _number(rule: Rule, param: ParamSpec) -> float:
    value = rule.params.get(param.name, param.default)
    assert isinstance(value, int | float), "parse_recipe rejects others"
    return float(value)


PART = SpacePart(config=ScalesConfig, make=ScaleSpace)
