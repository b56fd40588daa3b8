"""The effect of a recipe on one group of tensors, in a form in which recipes can be compared.

`linear` with shares that sum to one and `task_arithmetic` are two notations of the same function of the deltas; most
other operators reduce to it when nothing is dropped and all signs agree. So a baseline that consists of weights on
deltas alone has a nearest point in the space of any operator with weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from statistics import fmean

from crossbreed.recipes import rule_finder
from crossbreed.recipes.operators import DEPTH_PROFILE, OPERATOR_SPECS, OperatorSpec, ParamKind
from crossbreed.search_spaces.axes import Key
from crossbreed.search_spaces.groups import Group
from crossbreed.types import BASE, Recipe, Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A group's operator and parameters, defaults filled in."""

    operator: str | None
    """None if no rule matches: the unchanged base."""
    is_weighted_sum: bool
    """Whether weights on the deltas and a depth profile describe it completely."""
    numbers: Mapping[Key, float]
    words: Mapping[str, bool | str] = field(default_factory=dict)
    """Flags, choices, and sources under the space's names."""


def mixes_of(recipe: Recipe, groups: Sequence[Group], hashes: Mapping[str, str]) -> list[Mix] | None:
    """Returns the recipe's mix of each group, averaged over tensors with different rules.

    Returns None if there is none: another base, a source that is not in `hashes`, several operators in one group, a sum
    of models that is not the base plus deltas, or layers in another order.

    Args:
        recipe: Any recipe; its sources are identified by their hashes, whatever their names.
        groups: The groups of tensors to describe.
        hashes: Source name of the space -> content hash.
    """
    if recipe.layers or recipe.sources.get(recipe.base) != hashes[BASE]:
        return None
    names = {source: _name_of(source, digest, hashes) for source, digest in recipe.sources.items()}
    find_rule = rule_finder(recipe)
    mixes: list[Mix] = []
    for group in groups:
        rules = [find_rule(name) for name in group.tensors]
        parts = {id(rule): _mix_of_rule(rule, names, hashes, group.experts) for rule in rules}
        mix = _average([parts[id(rule)] for rule in rules])
        if mix is None:
            return None
        mixes.append(mix)
    return mixes


def _name_of(source: str, digest: str, hashes: Mapping[str, str]) -> str | None:
    """Returns the space's name for a source of the recipe; the same name if two sources have the same content."""
    if hashes.get(source) == digest:
        return source
    return next((name for name, known in hashes.items() if known == digest), None)


def _mix_of_rule(
    rule: Rule | None, names: Mapping[str, str | None], hashes: Mapping[str, str], experts: Sequence[str]
) -> Mix | None:
    if rule is None:
        return Mix(operator=None, is_weighted_sum=True, numbers={Key("weight", expert): 0.0 for expert in experts})
    spec = OPERATOR_SPECS[rule.operator]
    if not _only_known(rule, spec, names, hashes):
        return None
    numbers: dict[Key, float] = {}
    words: dict[str, bool | str] = {}
    for param in spec.params:
        match param.kind:
            case ParamKind.EXPERT | ParamKind.SOURCE:
                for source, value in spec.per_source(rule, param.name, tuple(names)).items():
                    key = Key(param.name, names[source])
                    copies = numbers.get(key, 0.0) if param.name == "weight" else 0.0  # an expert under two names
                    numbers[key] = copies + value
            case ParamKind.SCALAR:
                numbers[Key(param.name, None)] = spec.scalar(rule, param.name)
            case ParamKind.FLAG:
                words[param.name] = bool(spec.scalar(rule, param.name))
            case ParamKind.CHOICE:
                words[param.name] = spec.word(rule, param.name)
            case ParamKind.NAME:
                words[param.name] = names[spec.word(rule, param.name)] or ""
            case ParamKind.NUMBERS:
                if any(any(of_expert) for of_expert in spec.numbers(rule, param.name).values()):
                    return None
    if not _is_plain(rule, spec):
        return Mix(operator=spec.name, is_weighted_sum=False, numbers=numbers, words=words)
    total = 1.0
    if any(param.kind is ParamKind.SOURCE for param in spec.params):
        total = sum(value for key, value in numbers.items() if key.name == "weight")
        if isclose(total, 1.0, abs_tol=1e-6):
            total = 1.0
        elif total == 0 or not words["normalize"]:
            return None
    factor = numbers.get(Key("scale", None), 1.0) / total
    weights = {Key("weight", expert): factor * numbers.get(Key("weight", expert), 0.0) for expert in experts}
    profile = {key: numbers[key] for param in DEPTH_PROFILE if (key := Key(param.name, None)) in numbers}
    return Mix(operator=spec.name, is_weighted_sum=True, numbers=weights | profile)


def _only_known(rule: Rule, spec: OperatorSpec, names: Mapping[str, str | None], hashes: Mapping[str, str]) -> bool:
    """Returns whether all sources with a weight (without weights: exactly the recipe's sources) are the space's."""
    if spec.param("weight") is None:
        return set(names.values()) == set(hashes)
    weights = spec.per_source(rule, "weight", tuple(names))
    return all(names[source] is not None for source, value in weights.items() if value != 0)


def _is_plain(rule: Rule, spec: OperatorSpec) -> bool:
    """Returns whether the rule sets only weights, factors on all of them, and their normalisation."""
    factors = {"weight", "scale", "normalize", *(param.name for param in DEPTH_PROFILE)}
    others = [param for param in spec.params if param.name not in factors]
    return spec.is_weighted_sum and all(rule.params.get(param.name, param.default) == param.default for param in others)


def _average(found: Sequence[Mix | None]) -> Mix | None:
    """Returns the mean over a group's tensors: the base alone counts as weights of zero, and in nothing else."""
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return None
    merged = [part for part in parts if part.operator is not None] or list(parts)
    if len({(part.operator, part.is_weighted_sum, *sorted(part.words.items())) for part in merged}) != 1:
        return None
    numbers = {
        key: fmean(part.numbers.get(key, 0.0) for part in (parts if key.name == "weight" else merged))
        for key in merged[0].numbers
    }
    first = merged[0]
    return Mix(operator=first.operator, is_weighted_sum=first.is_weighted_sum, numbers=numbers, words=first.words)
