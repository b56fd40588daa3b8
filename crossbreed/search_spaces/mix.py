"""What a recipe does to one group of tensors, whatever its operator: the ground on which recipes are compared.

`linear` with shares that sum to one and `task_arithmetic` are two ways to write the same function of the deltas;
`ties` is that function when nothing is trimmed and all signs agree. A baseline written in one of them so has a nearest
point in a space of another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from statistics import fmean

from crossbreed.operators import OPERATOR_SPECS
from crossbreed.recipes import rule_finder
from crossbreed.search_spaces.groups import Group
from crossbreed.types import Recipe, Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A group's coefficients."""

    operator: str | None
    """None where no rule matches: the base as it is."""
    weight: Mapping[str, float]
    """On the delta of each expert of the group."""
    density: Mapping[str, float]
    """Share of each expert's delta that is kept."""


def mixes_of(recipe: Recipe, groups: Sequence[Group], hashes: Mapping[str, str]) -> list[Mix] | None:
    """Returns the recipe's mix of each group, averaged over tensors that obey different rules.

    None where there is no such thing: another base, a source that `hashes` does not have, several operators in one
    group, or weights that are normalised by what survives (ties), which no weights on deltas can express.

    Args:
        recipe: Any recipe; its sources are recognised by their hashes, whatever their names.
        groups: Which tensors to look at.
        hashes: Source name of the space -> content hash.
    """
    if recipe.sources.get(recipe.base) != hashes["base"] or recipe.artifacts:
        return None
    names = {source: _name_of(source, digest, hashes) for source, digest in recipe.sources.items()}
    find_rule = rule_finder(recipe)
    mixes: list[Mix] = []
    for group in groups:
        found = [_mix_of_rule(find_rule(name), recipe, names, group.experts) for name in group.tensors]
        parts = [part for part in found if part is not None]
        operators = {part.operator for part in parts} - {None}
        if len(parts) < len(found) or len(operators) > 1:
            return None
        mixes.append(_average(parts, group.experts))
    return mixes


def _name_of(source: str, digest: str, hashes: Mapping[str, str]) -> str | None:
    """What the space calls a source of the recipe; the same name where two sources have the same content."""
    if hashes.get(source) == digest:
        return source
    return next((name for name, known in hashes.items() if known == digest), None)


def _mix_of_rule(
    rule: Rule | None, recipe: Recipe, names: Mapping[str, str | None], experts: Sequence[str]
) -> Mix | None:
    weight, density = dict.fromkeys(experts, 0.0), dict.fromkeys(experts, 1.0)
    if rule is None:
        return Mix(operator=None, weight=weight, density=density)
    spec, sources = OPERATOR_SPECS[rule.operator], tuple(recipe.sources)
    given, kept, scale = spec.per_source(rule, "weight", sources), dict.fromkeys(sources, 1.0), 1.0
    match rule.operator:
        case "linear":
            total = sum(given.values())
            if total == 0 or not (spec.scalar(rule, "normalize") or isclose(total, 1.0, abs_tol=1e-6)):
                return None  # not the base plus deltas
            scale = 1.0 if isclose(total, 1.0, abs_tol=1e-6) else 1 / total
        case "task_arithmetic":
            scale = spec.scalar(rule, "scale")
        case "ties":
            if spec.scalar(rule, "normalize"):
                return None
            scale, kept = spec.scalar(rule, "scale"), spec.per_source(rule, "density", sources)
        case _:
            return None
    for source, value in given.items():
        name = names[source]
        if name is None and value != 0:
            return None
        if name in weight:
            weight[name] += scale * value
            density[name] = kept[source]
    return Mix(operator=rule.operator, weight=weight, density=density)


def _average(parts: Sequence[Mix], experts: Sequence[str]) -> Mix:
    """The mean over a group's tensors: the base's weights are zero, its densities do not count."""
    merged = [part for part in parts if part.operator is not None]
    return Mix(
        operator=merged[0].operator if merged else None,
        weight={expert: fmean(part.weight[expert] for part in parts) for expert in experts},
        density={expert: fmean(part.density[expert] for part in merged or parts) for expert in experts},
    )
