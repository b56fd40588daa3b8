"""Layer-wise coefficients: the parameters that an operator has in each group of tensors.

The space is built from the declarations of the operators alone; `crossbreed.search_spaces.layout` says how each is
searched. With a list of operators the choice is a coordinate too, and those that the chosen one does not read wait.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isclose
from statistics import fmean
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.operators import OPERATOR_SPECS, ParamKind
from crossbreed.search_spaces.axes import Key, Setting, fault_of
from crossbreed.search_spaces.groups import Group, GroupsConfig, make_groups
from crossbreed.search_spaces.layout import BASE, Layout
from crossbreed.search_spaces.mix import Mix, mixes_of
from crossbreed.sources.structure import Structure, depth_of
from crossbreed.types import Point, Recipe, Rule

_RANGES: Mapping[str, tuple[float, float]] = {"weight": (-0.5, 1.5), "density": (0.1, 1.0)}
"""Parameters with a key of their own in a spec, and what it holds where no operator has them."""


def _increasing(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"the lower bound comes first: expected low < high, got [{bounds[0]:g}, {bounds[1]:g}]")
    return bounds


def _is_setting(value: object) -> object:
    """Refuses in one sentence what pydantic would refuse in one for each type that it might have been."""
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    numbers = all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts)
    if value is None or not numbers or (isinstance(value, list | tuple) and len(value) != 2):
        raise ValueError("expected a range [low, high], one value, or a number for each expert")
    return value


Range: TypeAlias = Annotated[tuple[float, float], AfterValidator(_increasing)]
"""Lower and upper bound of a parameter."""


class CoefficientsConfig(Config):
    """Bands of layers x module types, each with coefficients of its own for each expert that touches it."""

    kind: Literal["coefficients"] = "coefficients"
    operator: str | list[str] = "task_arithmetic"
    """One of the operators below; a list makes the operator one more coordinate."""
    groups: GroupsConfig = GroupsConfig()
    """Which tensors share coefficients."""
    weight: Range = Field(default_factory=lambda said: _usual("weight", _listed(said.get("operator", ()))))
    """Range of the weights on deltas; negative unlearns. Unless given: the operators' own, mostly [-0.5, 1.5]."""
    density: Range = Field(default_factory=lambda said: _usual("density", _listed(said.get("operator", ()))))
    """Range of the share of each delta that is kept. Unless given: the operators' own, mostly [0.1, 1]."""
    params: dict[str, Annotated[Setting, BeforeValidator(_is_setting)]] = Field(default_factory=dict)
    """Any parameter of the operators: a range to search, or what it is fixed at, for all experts or for each; for
    example `{epsilon: [0, 0.5], scale: 1.0, rescale: false}`. One with a limit is given in fractions of it."""

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators, in order and once each."""
        return _listed(self.operator)

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """How each operator is searched."""
        return tuple(Layout.of(operator, self._settings) for operator in self.operators)

    @property
    def _ranges(self) -> dict[str, Setting]:
        """The parameters with keys of their own, where they are not what the operators say themselves."""
        ranges = {"weight": self.weight, "density": self.density}
        return {name: bounds for name, bounds in ranges.items() if bounds != _usual(name, self.operators)}

    @property
    def _given(self) -> dict[str, Setting]:
        """What somebody chose: a spec that has every key may have been written with all its defaults, read or not."""
        chosen = self.model_fields_set if self.model_fields_set != type(self).model_fields.keys() else frozenset[str]()
        return {name: bounds for name, bounds in (("weight", self.weight), ("density", self.density)) if name in chosen}

    @property
    def _settings(self) -> dict[str, Setting]:
        return self._ranges | self.params

    @model_validator(mode="after")
    def _fits_together(self) -> "CoefficientsConfig":
        if not self.operators:
            raise ValueError("`operator` is an empty list: name at least one operator")
        for name in self.operators:
            if name not in OPERATOR_SPECS:
                hint = _hint(name, OPERATOR_SPECS) or f"there are {', '.join(OPERATOR_SPECS)}"
                raise ValueError(f"unknown operator `{name}`; {hint}")
        beside = self._ranges | self._given
        if twice := beside.keys() & self.params.keys():
            raise ValueError(f"`{min(twice)}` is given twice: in `params` and beside it")
        for name, setting in (beside | self.params).items():
            _check(name, setting, self.layouts)
        for layout in self.layouts:
            for name in layout.missing:
                raise ValueError(f"`{layout.spec.name}` needs `{name}`: give its value or its range in `params`")
        for key, (low, high) in _ranges_of(self.layouts, ("a", "b")).items():
            if not low < high:
                raise ValueError(
                    f"the operators' own ranges of `{key.name}` have no part in common: give it in `params`"
                )
        return self


def _listed(operator: str | Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([operator] if isinstance(operator, str) else operator))


def _usual(name: str, operators: Iterable[str]) -> tuple[float, float]:
    """The range that suits all operators which have the parameter."""
    params = [spec.param(name) for operator in operators if (spec := OPERATOR_SPECS.get(operator))]
    bounds = [param.search for param in params if param is not None and param.search is not None] or [_RANGES[name]]
    return max(low for low, _ in bounds), min(high for _, high in bounds)


def _check(name: str, setting: Setting, layouts: Sequence[Layout]) -> None:
    """Raises ValueError unless a setting is valid for every operator that has the parameter, and used by one."""
    for layout in layouts:
        param = layout.spec.param(name)
        if param is not None and (fault := fault_of(param, setting)):
            got = f"[{setting[0]:g}, {setting[1]:g}]" if isinstance(setting, tuple) else repr(setting)
            raise ValueError(f"`{name}` must {fault}, got {got}")
    idle = [why for layout in layouts if (why := layout.why_idle(name))]
    if len(idle) == len(layouts):
        known = [param.name for layout in layouts for param in layout.spec.params]
        raise ValueError(f"`{name}` has no effect: {' and '.join(idle)}; {_hint(name, known) or 'remove it'}")


def _hint(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"did you mean `{close[0]}`?" if close and close[0] != name else ""


def build_space(
    config: CoefficientsConfig,
    structure: Structure,
    dtype: str,
    *,
    artifacts: Mapping[str, str] = MappingProxyType({}),
) -> "CoefficientSpace":
    """Builds the space over a base and its experts.

    Args:
        config: The `space` section of a spec.
        structure: The base's tensors, and which of them each expert changes.
        dtype: What decoded recipes round their tensors to.
        artifacts: What decoded recipes are merged with: name -> content hash.

    Raises:
        InputError: the groups or parameters do not fit the sources, or there is nothing to search.
    """
    for layout in config.layouts:
        _check_sources(layout, structure)
    space = CoefficientSpace(config, structure, dtype, artifacts)
    if not space.names:
        raise InputError(
            f"there is nothing to search: no parameter of `{config.operators[0]}` has a range here",
            expected="a parameter with a range, for example `params: {NAME: [low, high]}`",
            got=f"params: {config.params or 'none'}",
            where="space.params",
        )
    return space


def _check_sources(layout: Layout, structure: Structure) -> None:
    """Refuses another number of experts than the operator takes, and names that no source has."""
    spec, experts = layout.spec, tuple(structure.experts)
    if wanted := spec.fault(len(experts)):
        raise InputError(
            f"`{spec.name}` does not merge that many experts",
            expected=wanted,
            got=f"{len(experts)}: {', '.join(experts)}",
            where="space.operator",
        )
    for param in spec.params:
        said = layout.fixed.get(param.name, param.default)
        known = (BASE, *experts) if param.kind in (ParamKind.NAME, ParamKind.SOURCE) else experts
        names = (str(said),) if param.kind is ParamKind.NAME else tuple(said) if isinstance(said, Mapping) else ()
        for name in names:
            if name not in known:
                raise InputError(
                    f"`{name}` is no source that `{param.name}` can be of",
                    expected=", ".join(known),
                    got=name,
                    where=f"space.params.{param.name}",
                    fix=_hint(name, known),
                )


def _ranges_of(layouts: Sequence[Layout], experts: Sequence[str]) -> dict[Key, tuple[float, float]]:
    """The coordinates of a group, once each; where operators share one, what suits them all."""
    found: dict[Key, tuple[float, float]] = {}
    for layout in layouts:
        for key, (low, high) in layout.ranges(experts).items():
            before = found.get(key, (low, high))
            found[key] = (max(low, before[0]), min(high, before[1]))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coordinate:
    group: int
    key: Key
    name: str
    low: float
    high: float


class CoefficientSpace:
    """Coordinates by group, parameter and expert; before them the operator's, if there are several."""

    def __init__(
        self,
        config: CoefficientsConfig,
        structure: Structure,
        dtype: str,
        artifacts: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._layouts, self._hashes, self._dtype = config.layouts, dict(structure.hashes), dtype
        self._artifacts = dict(artifacts)
        self._groups, self._num_layers = make_groups(config.groups, structure), structure.num_layers
        self._coordinates = tuple(
            _Coordinate(group=index, key=key, name=_name(group, key), low=low, high=high)
            for index, group in enumerate(self._groups)
            for key, (low, high) in _ranges_of(self._layouts, group.experts).items()
        )
        self._is_gene = len(self._layouts) > 1

    @property
    def low(self) -> Point:
        """Lower corner of the box."""
        return (0.0,) * self._is_gene + tuple(c.low for c in self._coordinates)

    @property
    def high(self) -> Point:
        """Upper corner of the box."""
        return (float(len(self._layouts)),) * self._is_gene + tuple(c.high for c in self._coordinates)

    @property
    def names(self) -> tuple[str, ...]:
        """For example `layers 0-9 / mlp / french: weight`."""
        return ("operator",) * self._is_gene + tuple(c.name for c in self._coordinates)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups, in the order of a decoded recipe's rules."""
        return self._groups

    @property
    def examples(self) -> tuple[Recipe, ...]:
        """A recipe of each operator, from the middle of the box: where it cannot be merged, none of its can."""
        middle = tuple((coordinate.low + coordinate.high) / 2 for coordinate in self._coordinates)
        genes = ((index + 0.5,) * self._is_gene for index in range(len(self._layouts)))
        return tuple(self.decode(gene + middle) for gene in genes)

    @property
    def hulls(self) -> tuple[Mapping[str, int], ...] | None:
        """A block for each group, if nothing but weights on deltas is searched."""
        if self.why_no_hulls:
            return None
        blocks: list[dict[str, int]] = [{} for _ in self._groups]
        for index, coordinate in enumerate(self._coordinates):
            blocks[coordinate.group][str(coordinate.key.taker)] = index
        return tuple(blocks)

    @property
    def why_no_hulls(self) -> str | None:
        """What else is searched, or multiplies the weights, or keeps them from an expert's side of the base."""
        if self._is_gene:
            return "the operator is searched"
        shut = [name for name, high in zip(self.names, self.high, strict=True) if high <= 0]
        return self._layouts[0].why_no_hull or (f"`{shut[0]}` cannot be above 0" if shut else None)

    def slopes(self, found: Mapping[str, Mapping[str, float]]) -> tuple[float, ...]:
        """Returns the sum over each group's tensors of what was found for the coordinate's expert."""
        of_groups = [[found[name] for name in group.tensors if name in found] for group in self._groups]
        return tuple(
            math.fsum(of_tensor[str(c.key.taker)] for of_tensor in of_groups[c.group]) for c in self._coordinates
        )

    def decode(self, point: Point) -> Recipe:
        """Returns one rule a group, its numbers rounded."""
        assert len(point) == len(self.names)
        gene, values = point[: self._is_gene], point[self._is_gene :]
        layout = self._layouts[min(int(gene[0]), len(self._layouts) - 1) if gene else 0]
        per_group: list[dict[Key, float]] = [{} for _ in self._groups]
        for coordinate, value in zip(self._coordinates, values, strict=True):
            per_group[coordinate.group][coordinate.key] = value
        rules = (
            Rule(match=group.match, operator=layout.spec.name, params=layout.params(coordinates, group.experts))
            for group, coordinates in zip(self._groups, per_group, strict=True)
        )
        return Recipe(base=BASE, sources=self._hashes, rules=tuple(rules), dtype=self._dtype, artifacts=self._artifacts)

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the nearest point: exact for recipes of this space, averaged and clipped for others.

        Nothing but weights on deltas is expressed with any operator that has weights: one that does the same to the
        deltas, if the space has it. Where recipe and space have other depth profiles (LiNeS), the weights make up for
        the difference at the mean depth of each group. Other operators, other settings of what is not searched, other
        sources, other artifacts and mixed operators have no point.
        """
        if recipe.artifacts and recipe.artifacts != self._artifacts:
            return None
        mixes = mixes_of(recipe, self._groups, self._hashes)
        layout = None if mixes is None else self._layout_for(mixes)
        if mixes is None or layout is None:
            return None
        values: list[dict[Key, float]] = []
        for mix, group in zip(mixes, self._groups, strict=True):
            depth = fmean(depth_of(name, self._num_layers) or 0.0 for name in group.tensors)
            if (own := layout.locate(mix, group.experts, depth)) is None:
                return None
            waiting = [other.locate(mix, group.experts, depth) or {} for other in self._layouts]
            values.append({key: value for found in (*waiting, own) for key, value in found.items()})
        point = (self._layouts.index(layout) + 0.5,) * self._is_gene + tuple(
            min(max(values[c.group].get(c.key, c.low), c.low), c.high) for c in self._coordinates
        )
        return point if all(mix.plain for mix in mixes) or self._says(point, mixes, layout) else None

    def _layout_for(self, mixes: Sequence[Mix]) -> Layout | None:
        """The layout of the recipe's own operator; of weights on deltas, one that has weights, best those alone."""
        used = {mix.operator for mix in mixes if mix.operator is not None}
        if len(used) > 1:
            return None
        if own := next((layout for layout in self._layouts if layout.spec.name in used), None):
            return own
        weighted = [layout for layout in self._layouts if layout.spec.param("weight")]
        if not weighted or not all(mix.plain for mix in mixes):
            return None
        return next((layout for layout in weighted if layout.spec.plain), weighted[0])

    def _says(self, point: Point, mixes: Sequence[Mix], layout: Layout) -> bool:
        """Whether the recipe of a point agrees with mixes in all that the layout does not search."""
        found = mixes_of(self.decode(point), self._groups, self._hashes)
        assert found is not None, "recipes of this space are of its sources"
        return all(
            mine.words == theirs.words
            and mine.plain == theirs.plain
            and all(
                key.name in layout.free or isclose(mine.numbers[key], value, rel_tol=1e-6, abs_tol=1e-6)
                for key, value in theirs.numbers.items()
            )
            for mine, theirs in zip(found, mixes, strict=True)
        )


def _name(group: Group, key: Key) -> str:
    return f"{group.label}: {key.name}" if key.taker is None else f"{group.label} / {key.taker}: {key.name}"
