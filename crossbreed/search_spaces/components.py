"""Rank components of the experts' deltas, around a recipe: thousands of coordinates, for an optimizer by gradient.

Each matrix of each expert has as many coordinates as its delta has components: the ranks of an adapter, the largest
singular components of a full checkpoint. The recipe that they are around is a weighted sum of sources, components
included: at the point 0 the merge is that recipe's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import isclose
from typing import Annotated, Literal

from pydantic import Field

from crossbreed.config import TensorPatterns
from crossbreed.errors import InputError
from crossbreed.patterns import part_matcher
from crossbreed.recipes import rule_finder
from crossbreed.recipes.grammar import rule_matcher
from crossbreed.recipes.named import weighted_deltas
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.recipes.operators.components import COMPONENTS
from crossbreed.search_spaces.axes import six_decimals
from crossbreed.search_spaces.boxes import BoxSpace
from crossbreed.search_spaces.build import SpacePart
from crossbreed.search_spaces.distance import weights_of
from crossbreed.search_spaces.groups import Group
from crossbreed.search_spaces.mix import mixes_of
from crossbreed.search_spaces.protocol import Term
from crossbreed.search_spaces.settings import SpaceConfig, SpaceInputs
from crossbreed.sources.naming import depth_of, is_projection, names_pattern
from crossbreed.types import REGRESSION, Box, Coordinate, Numbers, Point, Recipe, Rule


class ComponentsConfig(SpaceConfig):
    """A coefficient for each rank component of each expert's matrices, added to a recipe.

    The recipe is the run's regression, if it has one, else the mean of the experts. An adapter has as many components
    as ranks. Thousands of coordinates: for `optimizer: {kind: gradient}`.
    """

    kind: Literal["components"] = "components"
    rank: Annotated[int, Field(ge=1)] = 8
    """Of a full checkpoint: the number of singular components of each matrix, the largest first."""
    reach: Annotated[float, Field(gt=0)] = 2.0
    """The largest change of a coefficient, in either direction."""
    modules: TensorPatterns = Field(default_factory=list)
    """Regular expressions (RE2), found anywhere in a tensor's name: the matrices that have coordinates. Empty: all that
    some expert changes. Everything else stays as it is in the recipe."""

    @property
    def operators(self) -> tuple[str, ...]:
        """The operator of its rules."""
        return (COMPONENTS,)

    @property
    def is_around(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """What a recipe makes of one tensor, beside the base."""

    weights: Mapping[str, float]
    """Source -> weight of its whole delta."""
    numbers: Numbers
    """Expert -> coefficients of its components."""


class ComponentSpace(BoxSpace):
    """Coordinates by tensor, expert and component."""

    def __init__(self, config: ComponentsConfig, inputs: SpaceInputs) -> None:
        """Lays out the coordinates.

        Raises:
            InputError: no expert changes a matrix, or the recipe is no weighted sum.
        """
        self._structure, self._hashes, self._dtype = inputs.structure, dict(inputs.structure.hashes), inputs.dtype
        self._groups = _groups(config, inputs)
        self._around = inputs.around or self._default()
        sums = self._sums(self._around)
        if sums is None:
            raise InputError(
                "the space `components` is around weighted sums of the run's sources, and this recipe is none",
                expected="one of `task_arithmetic`, `linear` with shares of a whole, or `rank_components`",
                got=", ".join(sorted({rule.operator for rule in self._around.rules})),
                where="space",
                fix="start from another merge, or use `space: {kind: coefficients}`",
            )
        self._sums_around = sums
        self._terms = tuple(self._laid_out(config.rank))
        self._searched = dict[str, set[str]]()
        for term in self._terms:
            self._searched.setdefault(term.tensor, set()).add(term.expert)
        self._others = tuple(self._rules_of_others())
        self._reach = config.reach

    @property
    def domain(self) -> Box:
        """The box, around 0."""
        number = sum(len(term.coordinates) for term in self._terms)
        coordinates = (
            Coordinate(param=f"component {index}", owner=term.expert)
            for term in self._terms
            for index, _ in enumerate(term.coordinates)
        )
        return Box(
            low=(-self._reach,) * number,
            high=(self._reach,) * number,
            why_no_weight_blocks="coordinates are coefficients of components, not of whole deltas",
            coordinates=tuple(coordinates),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the coordinates, for example `model.layers.0.mlp.up_proj / french: component 3`."""
        return tuple(
            f"{term.tensor.removesuffix('.weight')} / {term.expert}: component {index}"
            for term in self._terms
            for index, _ in enumerate(term.coordinates)
        )

    @property
    def origin(self) -> Recipe:
        """See HasTerms: the recipe that the space is around."""
        return self._around

    @property
    def terms(self) -> tuple[Term, ...]:
        """See HasTerms."""
        return self._terms

    def describe(self) -> str:
        """Returns the number of coordinates and matrices."""
        return f"{super().describe()}, components of {len(self._groups)} matrices"

    def decode(self, point: Point) -> Recipe:
        """Returns a rule for each matrix, with rounded numbers, before those of the recipe around which it is."""
        found: dict[str, dict[str, tuple[float, ...]]] = {}
        for term in self._terms:
            steps = (point[index] for index in term.coordinates)
            around = self._sums_around[term.tensor].numbers.get(term.expert, ())
            sums = tuple(six_decimals(x + y) for x, y in zip_longest(steps, around, fillvalue=0.0))
            found.setdefault(term.tensor, {})[term.expert] = sums
        rules = (
            Rule(
                match=names_pattern([tensor]),
                operator=COMPONENTS,
                params={"weight": self._sums_around[tensor].weights, "components": numbers},
            )
            for tensor, numbers in found.items()
        )
        return replace(self._around, rules=(*rules, *self._others))

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the nearest point; None where a recipe differs from the one around by more than components.

        An adapter's weight is a coefficient of all its components; other weights must be those around.
        """
        if recipe.artifacts != self._around.artifacts or (sums := self._sums(recipe)) is None:
            return None
        point = list[float]()
        for term in self._terms:
            ours, theirs = self._sums_around[term.tensor], sums[term.tensor]
            step = theirs.weights.get(term.expert, 0.0) - ours.weights.get(term.expert, 0.0)
            if not self._is_whole(term) and not _is_zero(step):
                return None
            before, after = ours.numbers.get(term.expert, ()), theirs.numbers.get(term.expert, ())
            number = len(term.coordinates)
            before, after = ((*some, *[0.0] * (number - len(some))) for some in (before, after))
            if before[number:] != after[number:]:
                return None
            point += [step + y - x for x, y in zip(before[:number], after[:number], strict=True)]
        if not all(self._agree_elsewhere(tensor, sums[tensor]) for tensor in self._sums_around):
            return None
        return tuple(min(max(x, -self._reach), self._reach) for x in point)

    def _default(self) -> Recipe:
        """The recipe around which the space is if none is given: the regression, or the mean of the experts."""
        names = [REGRESSION] if REGRESSION in self._hashes else [*self._structure.experts]
        weights = dict.fromkeys(names, round(1.0 / len(names), 6) if len(names) > 1 else 1.0)
        return weighted_deltas(weights, hashes=self._hashes, dtype=self._dtype)

    def _laid_out(self, rank: int) -> Iterator[Term]:
        structure, first = self._structure, 0
        for group in self._groups:
            [tensor] = group.tensors
            for expert in group.experts:
                if expert == REGRESSION:
                    continue
                number = structure.ranks.get(expert, {}).get(tensor) or min(rank, *structure.tensors[tensor].shape)
                yield Term(
                    tensor=tensor,
                    expert=expert,
                    coordinates=tuple(range(first, first + number)),
                    is_whole=False,
                )
                first += number

    def _rules_of_others(self) -> Iterator[Rule]:
        """Yields the rules around that some other tensor obeys."""
        searched = {tensor for group in self._groups for tensor in group.tensors}
        left = [name for name in self._structure.tensors if name not in searched]
        for rule in self._around.rules:
            matches, before = rule_matcher(rule), len(left)
            left = [name for name in left if not matches(name)]
            if len(left) < before:
                yield rule

    def _sums(self, recipe: Recipe) -> dict[str, _Sum] | None:
        """Returns what a recipe makes of each searched tensor; None if that is no weighted sum of our sources."""
        plain = replace(recipe, rules=tuple(map(_without_components, recipe.rules)))
        mixes = mixes_of(plain, self._groups, self._hashes)
        if mixes is None or not all(mix.is_weighted_sum for mix in mixes):
            return None
        ours = {hash_: name for name, hash_ in self._hashes.items()}
        names = {name: ours.get(hash_, name) for name, hash_ in recipe.sources.items()}
        find_rule, num_layers, found = rule_finder(recipe), self._structure.num_layers, dict[str, _Sum]()
        for group, mix in zip(self._groups, mixes, strict=True):
            [tensor] = group.tensors
            weights = {name: six_decimals(w) for name, w in weights_of(mix, group, num_layers).items() if w}
            rule, numbers = find_rule(tensor), dict[str, tuple[float, ...]]()
            if rule is not None and rule.operator == COMPONENTS:
                spec = OPERATOR_SPECS[COMPONENTS]
                factor = spec.depth_factor(rule, depth_of(tensor, num_layers))
                for name, given in spec.numbers(rule, "components").items():
                    numbers[names[name]] = tuple(factor * number for number in given)
            found[tensor] = _Sum(weights=weights, numbers=numbers)
        return found

    def _is_whole(self, term: Term) -> bool:
        """Whether the components are all that the delta consists of."""
        return term.tensor in self._structure.ranks.get(term.expert, {})

    def _agree_elsewhere(self, tensor: str, theirs: _Sum) -> bool:
        """Whether weights and components without coordinates are those around."""
        ours = self._sums_around[tensor]
        others = {*ours.weights, *theirs.weights, *ours.numbers, *theirs.numbers} - self._searched[tensor]
        return all(
            _is_zero(ours.weights.get(name, 0.0) - theirs.weights.get(name, 0.0))
            and ours.numbers.get(name, ()) == theirs.numbers.get(name, ())
            for name in others
        )


def _groups(config: ComponentsConfig, inputs: SpaceInputs) -> tuple[Group, ...]:
    """Returns a group for each matrix that has coordinates."""
    structure, matchers = inputs.structure, [part_matcher(pattern) for pattern in config.modules]
    groups = []
    for name, info in structure.tensors.items():
        experts = tuple(expert for expert, touched in structure.touched.items() if name in touched)
        is_chosen = not matchers or any(matches(name) for matches in matchers)
        if is_chosen and is_projection(name, info.shape) and {*experts} - {REGRESSION}:
            groups.append(Group(label=name, match=names_pattern([name]), tensors=(name,), experts=experts))
    if not groups:
        raise InputError(
            "there is nothing to search: no expert changes a matrix that may have coordinates",
            expected="a matrix inside the layers that some expert changes",
            got=f"modules: {config.modules}" if config.modules else "experts that change none",
            where="space.modules" if config.modules else "sources.experts",
            fix="remove `modules`, or use names as `crossbreed inspect` shows them" if config.modules else "",
        )
    return tuple(groups)


def _without_components(rule: Rule) -> Rule:
    if rule.operator != COMPONENTS:
        return rule
    params = {name: value for name, value in rule.params.items() if name != "components"}
    return replace(rule, operator="task_arithmetic", params=params)


def _is_zero(number: float) -> bool:
    return isclose(number, 0.0, abs_tol=1e-6)


PART = SpacePart(config=ComponentsConfig, make=ComponentSpace)
