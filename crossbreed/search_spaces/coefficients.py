"""Layer-wise coefficients: the parameters of an operator in each group of tensors.

The space is built from the declarations of the operators alone; `crossbreed.search_spaces.layout` defines how each is
searched. With a list of operators the choice is the first coordinate, and coordinates of unchosen operators have no
effect.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from statistics import fmean

from crossbreed.errors import InputError
from crossbreed.parsing import suggestion
from crossbreed.recipes.operators import ParamKind
from crossbreed.recipes.operators.factors import check_factors
from crossbreed.search_spaces.axes import Key
from crossbreed.search_spaces.boxes import BoxSpace
from crossbreed.search_spaces.build import SpacePart
from crossbreed.search_spaces.coefficients_config import CoefficientsConfig
from crossbreed.search_spaces.distance import largest_difference
from crossbreed.search_spaces.groups import Group, make_groups
from crossbreed.search_spaces.layout import Layout, common_ranges
from crossbreed.search_spaces.mix import Mix, mixes_of
from crossbreed.search_spaces.protocol import Term
from crossbreed.search_spaces.settings import SpaceInputs
from crossbreed.sources.naming import depth_of
from crossbreed.sources.structure import Structure
from crossbreed.types import BASE, Box, Coordinate, Point, Recipe, Rule, WeightBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coordinate:
    group: int
    key: Key
    name: str
    low: float
    high: float


class CoefficientSpace(BoxSpace):
    """Coordinates by group, parameter and expert; preceded by the operator's if there are several."""

    def __init__(self, config: CoefficientsConfig, inputs: SpaceInputs) -> None:
        """Lays out the coordinates.

        Raises:
            InputError: the groups or parameters do not fit the sources, or there is nothing to search.
        """
        for layout in config.layouts:
            _check_sources(layout, inputs.structure)
        self._layouts, self._hashes, self._dtype = config.layouts, dict(inputs.structure.hashes), inputs.dtype
        self._touched = dict(inputs.structure.touched)
        self._artifacts, self._num_layers = dict(inputs.artifacts), inputs.structure.num_layers
        self._groups = make_groups(config.groups, inputs.structure)
        self._coordinates = tuple(
            _Coordinate(group=index, key=key, name=_name(group, key), low=low, high=high)
            for index, group in enumerate(self._groups)
            for key, (low, high) in common_ranges(self._layouts, group.experts).items()
        )
        self._domain = self._box()
        if not self.names:
            raise InputError(
                f"there is nothing to search: no parameter of `{config.operators[0]}` has a range here",
                expected="a parameter with a range, for example `params: {NAME: [low, high]}`",
                got=f"params: {config.params or 'none'}",
                where="space.params",
            )

    @property
    def domain(self) -> Box:
        """The box, with a weight block for each group if only weights on deltas are searched."""
        return self._domain

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the coordinates, for example `layers 0-9 / mlp / french: weight`."""
        names = tuple(coordinate.name for coordinate in self._coordinates)
        return ("operator", *names) if self._has_choice else names

    def describe(self) -> str:
        """Returns the number of coordinates, and what the first chooses among."""
        if not self._has_choice:
            return super().describe()
        operators = ", ".join(layout.spec.name for layout in self._layouts)
        return f"{super().describe()}, the first of which chooses the operator: {operators}"

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups, in the order of a decoded recipe's rules."""
        return self._groups

    @property
    def examples(self) -> tuple[Recipe, ...]:
        """One recipe per operator, from the middle of the box: if it cannot be merged, none of its recipes can."""
        middle = tuple((coordinate.low + coordinate.high) / 2 for coordinate in self._coordinates)
        return tuple(self.decode(self._point(layout, middle)) for layout in self._layouts)

    def slopes(self, found: Mapping[str, Mapping[str, float]]) -> tuple[float, ...]:
        """Returns, for each coordinate, the sum of its expert's slopes over the tensors of its group."""
        per_group = [[found[name] for name in group.tensors if name in found] for group in self._groups]
        return tuple(
            math.fsum(per_expert[str(c.key.owner)] for per_expert in per_group[c.group]) for c in self._coordinates
        )

    @property
    def origin(self) -> Recipe:
        """See HasTerms: the base."""
        return Recipe(base=BASE, sources=self._hashes, rules=(), dtype=self._dtype, artifacts=self._artifacts)

    @property
    def terms(self) -> tuple[Term, ...]:
        """See HasTerms: an expert's delta in each tensor of a group, times its weight there."""
        if self._why_no_weight_blocks() or not self._layouts[0].spec.is_weighted_sum:
            return ()
        return tuple(
            Term(tensor=name, expert=expert, coordinates=(index,), is_whole=True)
            for index, coordinate in enumerate(self._coordinates)
            for name in self._groups[coordinate.group].tensors
            if name in self._touched[expert := str(coordinate.key.owner)]
        )

    def decode(self, point: Point) -> Recipe:
        """Returns one rule per group, with rounded numbers."""
        assert len(point) == self.domain.dim
        layout, values = self._choice(point)
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

        A recipe of weights on deltas alone can be expressed with any operator that has weights, preferably one that is
        a weighted sum of deltas. If recipe and space have different depth profiles (LiNeS), the weights compensate for
        the difference at the mean depth of each group. A recipe with other operators, other values of unsearched
        parameters, other sources, other artifacts or mixed operators has no point.
        """
        if recipe.artifacts and recipe.artifacts != self._artifacts:
            return None
        mixes = mixes_of(recipe, self._groups, self._hashes)
        layout = None if mixes is None else self._layout_for(mixes)
        if mixes is None or layout is None:
            return None
        found: list[dict[Key, float]] = []
        for mix, group in zip(mixes, self._groups, strict=True):
            if (located := self._located(mix, group, layout)) is None:
                return None
            found.append(located)
        values = (min(max(found[c.group].get(c.key, c.low), c.low), c.high) for c in self._coordinates)
        point = self._point(layout, tuple(values))
        return point if all(mix.is_weighted_sum for mix in mixes) or self._agrees(point, mixes, layout) else None

    def distance(self, recipe: Recipe) -> float | None:
        """See HasDistance: the largest difference of an expert's weight in a tensor."""
        point = self.encode(recipe)
        if point is None:
            return None
        return largest_difference(recipe, self.decode(point), self._touched, self._hashes, num_layers=self._num_layers)

    def _box(self) -> Box:
        low, high = tuple(c.low for c in self._coordinates), tuple(c.high for c in self._coordinates)
        coordinates = tuple(Coordinate(param=c.key.name, owner=c.key.owner) for c in self._coordinates)
        if self._has_choice:
            low, high = (0.0, *low), (float(len(self._layouts)), *high)
            coordinates = (Coordinate(param="operator"), *coordinates)
        why_not = self._why_no_weight_blocks()
        return Box(
            low=low,
            high=high,
            weight_blocks=None if why_not else self._weight_blocks(),
            why_no_weight_blocks=why_not,
            choices=len(self._layouts),
            coordinates=coordinates,
        )

    def _weight_blocks(self) -> tuple[WeightBlock, ...]:
        blocks: list[dict[str, int]] = [{} for _ in self._groups]
        for index, coordinate in enumerate(self._coordinates):
            blocks[coordinate.group][str(coordinate.key.owner)] = index
        return tuple(blocks)

    def _why_no_weight_blocks(self) -> str | None:
        """Returns what else is searched, multiplies the weights or keeps one from being positive; None if nothing."""
        if self._has_choice:
            return "the operator is searched"
        never_positive = [coordinate.name for coordinate in self._coordinates if coordinate.high <= 0]
        reason = self._layouts[0].why_not_weights_alone
        return reason or (f"`{never_positive[0]}` cannot be above 0" if never_positive else None)

    @property
    def _has_choice(self) -> bool:
        """Whether the operator is a coordinate."""
        return len(self._layouts) > 1

    def _choice(self, point: Point) -> tuple[Layout, Point]:
        """Returns the operator that a point chooses, and its other coordinates."""
        if not self._has_choice:
            return self._layouts[0], point
        return self._layouts[min(int(point[0]), len(self._layouts) - 1)], point[1:]

    def _point(self, layout: Layout, values: Point) -> Point:
        """Returns the point with these other coordinates that chooses an operator, at the middle of its interval."""
        return (self._layouts.index(layout) + 0.5, *values) if self._has_choice else values

    def _located(self, mix: Mix, group: Group, layout: Layout) -> dict[Key, float] | None:
        """Returns the coordinates of a group; those of other operators are as near to the mix as possible."""
        depth = fmean(depth_of(name, self._num_layers) or 0.0 for name in group.tensors)
        if (own := layout.locate(mix, group.experts, depth)) is None:
            return None
        others = [other.locate(mix, group.experts, depth) or {} for other in self._layouts]
        return {key: value for found in (*others, own) for key, value in found.items()}

    def _layout_for(self, mixes: Sequence[Mix]) -> Layout | None:
        """Returns the layout of the recipe's own operator; for a weighted sum of deltas, any with weights will do."""
        used = {mix.operator for mix in mixes if mix.operator is not None}
        if len(used) > 1:
            return None
        if own := next((layout for layout in self._layouts if layout.spec.name in used), None):
            return own
        weighted = [layout for layout in self._layouts if layout.spec.param("weight")]
        if not weighted or not all(mix.is_weighted_sum for mix in mixes):
            return None
        return next((layout for layout in weighted if layout.spec.is_weighted_sum), weighted[0])

    def _agrees(self, point: Point, mixes: Sequence[Mix], layout: Layout) -> bool:
        """Returns whether the recipe of a point agrees with mixes in everything that the layout does not search."""
        found = mixes_of(self.decode(point), self._groups, self._hashes)
        assert found is not None, "recipes of this space are of its sources"
        return all(_agree(mine, theirs, layout.adjustable) for mine, theirs in zip(found, mixes, strict=True))


def _agree(mine: Mix, theirs: Mix, adjustable: frozenset[str]) -> bool:
    return (mine.words, mine.is_weighted_sum) == (theirs.words, theirs.is_weighted_sum) and all(
        key.name in adjustable or isclose(mine.numbers[key], value, rel_tol=1e-6, abs_tol=1e-6)
        for key, value in theirs.numbers.items()
    )


def _name(group: Group, key: Key) -> str:
    return f"{group.label}: {key.name}" if key.owner is None else f"{group.label} / {key.owner}: {key.name}"


def _check_sources(layout: Layout, structure: Structure) -> None:
    """Raises InputError if the operator does not take that many experts, or if a setting names an unknown source."""
    spec, experts = layout.spec, tuple(structure.experts)
    if wanted := spec.why_invalid(len(experts)):
        raise InputError(
            f"`{spec.name}` does not merge that many experts",
            expected=wanted,
            got=f"{len(experts)}: {', '.join(experts)}",
            where="space.operator",
        )
    if spec.mixes_factors:
        for tensor in sorted(structure.touched_by_any):
            ranks = {name: found.get(tensor) for name, found in structure.ranks.items()}
            touching = (name for name in ranks if tensor in structure.touched[name])
            check_factors(spec.name, tensor, {name: ranks[name] for name in touching})
    for param in spec.params:
        setting = layout.fixed.get(param.name, param.default)
        known = (BASE, *experts) if param.kind in (ParamKind.NAME, ParamKind.SOURCE) else experts
        names = (str(setting),) if param.kind is ParamKind.NAME else setting if isinstance(setting, Mapping) else ()
        for name in names:
            if name not in known:
                raise InputError(
                    f"`{param.name}` names the unknown source `{name}`",
                    expected=", ".join(known),
                    got=name,
                    where=f"space.params.{param.name}",
                    fix=suggestion(name, known),
                )


PART = SpacePart(config=CoefficientsConfig, make=CoefficientSpace)
