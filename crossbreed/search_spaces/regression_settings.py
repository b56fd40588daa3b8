"""Settings of the run's regression, in each group of tensors: lambda, the anchor's scale, the mix of targets.

A candidate is not another walk: it is solved from the statistics of the walk that made the regression, whose inputs it
keeps (`anchored_regression`). Where all settings are the regression's, it is the regression itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import AfterValidator

from crossbreed.errors import InputError
from crossbreed.patterns import part_matcher
from crossbreed.recipes import rule_finder
from crossbreed.recipes.named import weighted_deltas
from crossbreed.recipes.operators import OPERATOR_SPECS, ParamSpec
from crossbreed.recipes.operators.walked import ANCHORED
from crossbreed.search_spaces.axes import Axis, why_invalid_setting
from crossbreed.search_spaces.boxes import BoxSpace
from crossbreed.search_spaces.build import SpacePart
from crossbreed.search_spaces.coefficients_config import Range
from crossbreed.search_spaces.groups import Group, GroupsConfig, make_groups
from crossbreed.search_spaces.settings import RegressionSettings, SpaceConfig, SpaceInputs
from crossbreed.sources.naming import is_projection
from crossbreed.types import BASE, REGRESSION, Box, Coordinate, Point, Recipe, Rule

_SETTINGS = ("ridge", "anchor_scale", "own")
"""Parameters of the operator, and fields of `RegressionSettings`."""
_PARAMS = {*_SETTINGS, "rest"}
"""All that its rules say: what else a rule says, such as a factor on the delta, this space cannot express."""


def _param(name: str) -> ParamSpec:
    found = OPERATOR_SPECS[ANCHORED].param(name)
    assert found is not None, "declared"
    return found


def _valid(name: str) -> AfterValidator:
    def check(bounds: Range | None) -> Range | None:
        if bounds is not None and (fault := why_invalid_setting(_param(name), bounds)):
            raise ValueError(f"`{name}` must {fault}, got [{bounds[0]:g}, {bounds[1]:g}]")
        return bounds

    return AfterValidator(check)


class RegressionSettingsConfig(SpaceConfig):
    """Settings of the run's regression, for each group of tensors: a regression is needed, as an artifact or a stage.

    A candidate is solved from the statistics of the regression's one walk, not by another: it is exact where nothing
    before a matrix changes, and the regression itself where nothing changes at all.
    """

    kind: Literal["regression_settings"] = "regression_settings"
    groups: GroupsConfig = GroupsConfig()
    """The groups of tensors that share settings."""
    ridge: Annotated[Range | None, _valid("ridge")] = _param("ridge").search
    """Range of lambda, on a log scale. null: that of the regression."""
    anchor_scale: Annotated[Range | None, _valid("anchor_scale")] = _param("anchor_scale").search
    """Range of the factor on the anchor's delta. null: that of the regression."""
    own: Annotated[Range | None, _valid("own")] = _param("own").search
    """Range of the share of the experts' own outputs in the targets. null: that of the regression."""

    @property
    def operators(self) -> tuple[str, ...]:
        """The operator of its rules."""
        return (ANCHORED,)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coordinate:
    group: int
    axis: Axis


class RegressionSettingsSpace(BoxSpace):
    """One coordinate for each setting that is searched, in each group in which a matrix is solved."""

    def __init__(self, config: RegressionSettingsConfig, inputs: SpaceInputs) -> None:
        """Lays out the coordinates.

        Raises:
            InputError: the run makes no regression, none of the groups has a matrix of it, or nothing is searched.
        """
        if inputs.regression is None:
            raise InputError(
                "the space `regression_settings` is of a regression's settings, and the run makes none",
                expected="a regression, as a first stage or an artifact",
                where="space",
                fix="add the stage `{kind: regression, items: 48}`, or `artifacts: {regression: {items: 48}}`",
            )
        structure = inputs.structure
        self._hashes, self._dtype, self._artifacts = dict(structure.hashes), inputs.dtype, dict(inputs.artifacts)
        is_solved = [part_matcher(pattern) for pattern in inputs.regression.modules]
        self._groups = tuple(
            group
            for group in make_groups(config.groups, structure)
            if any(
                is_projection(name, structure.tensors[name].shape)
                and (not is_solved or any(matches(name) for matches in is_solved))
                for name in group.tensors
            )
        )
        ranges = {name: getattr(config, name) for name in _SETTINGS}
        axes = [Axis(param=_param(name), low=r[0], high=r[1]) for name, r in ranges.items() if r is not None]
        self._coordinates = tuple(
            _Coordinate(group=index, axis=axis) for index, _ in enumerate(self._groups) for axis in axes
        )
        if not self._coordinates:
            raise InputError(
                "there is nothing to search",
                expected="a range of `ridge`, `anchor_scale` or `own`, and a matrix that the regression solves",
                got=f"{len(axes)} settings with a range, {len(self._groups)} groups with such a matrix",
                where="space",
            )
        self._reference = _valid_settings(inputs.regression)

    @property
    def domain(self) -> Box:
        """The box."""
        bounds = [coordinate.axis.range for coordinate in self._coordinates]
        return Box(
            low=tuple(low for low, _ in bounds),
            high=tuple(high for _, high in bounds),
            why_no_weight_blocks="settings of a regression are searched, not the weights of experts",
            coordinates=tuple(Coordinate(param=coordinate.axis.label) for coordinate in self._coordinates),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the coordinates, for example `layers 0-9 / mlp: ln ridge`."""
        return tuple(f"{self._groups[c.group].label}: {c.axis.label}" for c in self._coordinates)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups."""
        return self._groups

    def decode(self, point: Point) -> Recipe:
        """Returns one rule for each group, and one for the rest; the regression itself if no setting differs."""
        settings = [dict(self._reference) for _ in self._groups]
        for coordinate, value in zip(self._coordinates, point, strict=True):
            settings[coordinate.group][coordinate.axis.param.name] = coordinate.axis.value(value)
        if all(one == self._reference for one in settings):
            return self._made
        rest = REGRESSION if REGRESSION in self._hashes else BASE
        rules = [
            Rule(match=group.match, operator=ANCHORED, params={**one, "rest": rest})
            for group, one in zip(self._groups, settings, strict=True)
        ]
        if self._groups[-1].match != ".*":
            rules += self._made.rules
        return replace(self._made, rules=tuple(rules), artifacts=self._artifacts)

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the settings of a recipe of such rules, clipped to their ranges, or of the regression itself."""
        if recipe == self._made:
            found: list[Mapping[str, float]] = [self._reference for _ in self._groups]
        elif recipe.artifacts == self._artifacts and (recipe.sources, recipe.dtype) == (self._hashes, self._dtype):
            found = [*self._settings_of(recipe)]
        else:
            return None
        if len(found) < len(self._groups):
            return None
        return tuple(c.axis.coordinate(found[c.group][c.axis.param.name]) for c in self._coordinates)

    def _settings_of(self, recipe: Recipe) -> Iterator[Mapping[str, float]]:
        """Yields the settings of each group, as far as all of its tensors have the same."""
        find, spec = rule_finder(recipe), OPERATOR_SPECS[ANCHORED]
        for group in self._groups:
            rules = {id(rule): rule for rule in map(find, group.tensors)}.values()
            ours = [rule for rule in rules if rule and rule.operator == ANCHORED and rule.params.keys() <= _PARAMS]
            found = [{name: spec.scalar(rule, name) for name in _SETTINGS} for rule in ours]
            if len(found) < len(rules) or any(one != found[0] for one in found):
                return
            yield found[0]

    @property
    def _made(self) -> Recipe:
        """The regression itself; the base, as long as it is not made."""
        weights = {name: 1.0 for name in self._hashes if name == REGRESSION}
        return weighted_deltas(weights, hashes=self._hashes, dtype=self._dtype)


def _valid_settings(settings: RegressionSettings) -> dict[str, float]:
    """Returns the regression's settings, rounded as recipes are and valid for the operator."""
    found = dict[str, float]()
    for name in _SETTINGS:
        param = _param(name)
        axis = Axis(param=param, low=param.at_least, high=param.at_most)
        found[name] = axis.value(axis.coordinate(float(getattr(settings, name))))
    return found


PART = SpacePart(config=RegressionSettingsConfig, make=RegressionSettingsSpace)
