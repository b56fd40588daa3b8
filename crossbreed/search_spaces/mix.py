"""What a recipe does to one group of tensors: the ground on which recipes are compared.

`linear` with shares that sum to one and `task_arithmetic` are two ways to write the same function of the deltas; most
other operators are that function when nothing is thinned out and all signs agree. So a baseline that is nothing but
weights on deltas (a *plain* mix) has a nearest point in the space of any operator with weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from statistics import fmean

from crossbreed.operators import DEPTH_PROFILE, OPERATOR_SPECS, OperatorSpec, ParamKind
from crossbreed.recipes import rule_finder
from crossbreed.search_spaces.axes import Key
from crossbreed.search_spaces.groups import Group
from crossbreed.types import Recipe, Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A group's operator and parameters, defaults filled in."""

    operator: str | None
    """None where no rule matches: the base as it is."""
    plain: bool
    """Whether the weights, which are then on the deltas, and a depth profile say it all."""
    numbers: Mapping[Key, float]
    words: Mapping[str, bool | str] = field(default_factory=dict)
    """Flags, choices, and sources by the names that the space has for them."""


def mixes_of(recipe: Recipe, groups: Sequence[Group], hashes: Mapping[str, str]) -> list[Mix] | None:
    """Returns the recipe's mix of each group, averaged over tensors that obey different rules.

    None where there is no such thing: another base, a source that `hashes` does not have, several operators in one
    group, or a sum of models that is not the base plus deltas.

    Args:
        recipe: Any recipe; its sources are recognised by their hashes, whatever their names.
        groups: Which tensors to look at.
        hashes: Source name of the space -> content hash.
    """
    if recipe.sources.get(recipe.base) != hashes["base"]:
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
    """What the space calls a source of the recipe; the same name where two sources have the same content."""
    if hashes.get(source) == digest:
        return source
    return next((name for name, known in hashes.items() if known == digest), None)


def _mix_of_rule(
    rule: Rule | None, names: Mapping[str, str | None], hashes: Mapping[str, str], experts: Sequence[str]
) -> Mix | None:
    if rule is None:
        return Mix(operator=None, plain=True, numbers={Key("weight", expert): 0.0 for expert in experts})
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
    if not _is_plain(rule, spec):
        return Mix(operator=spec.name, plain=False, numbers=numbers, words=words)
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
    return Mix(operator=spec.name, plain=True, numbers=weights | profile)


def _only_known(rule: Rule, spec: OperatorSpec, names: Mapping[str, str | None], hashes: Mapping[str, str]) -> bool:
    """Whether all that is merged is the space's: sources with a weight, or, where there are none, the same sources."""
    if spec.param("weight") is None:
        return set(names.values()) == set(hashes)
    weights = spec.per_source(rule, "weight", tuple(names))
    return all(names[source] is not None for source, value in weights.items() if value != 0)


def _is_plain(rule: Rule, spec: OperatorSpec) -> bool:
    """Whether the rule says nothing but weights, factors on all of them, or their normalisation."""
    factors = {"weight", "scale", "normalize", *(param.name for param in DEPTH_PROFILE)}
    others = [param for param in spec.params if param.name not in factors]
    return spec.plain and all(rule.params.get(param.name, param.default) == param.default for param in others)


def _average(found: Sequence[Mix | None]) -> Mix | None:
    """The mean over a group's tensors: where the base is kept its weights are zero, and nothing else counts."""
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return None
    merged = [part for part in parts if part.operator is not None] or list(parts)
    if len({(part.operator, part.plain, *sorted(part.words.items())) for part in merged}) != 1:
        return None
    numbers = {
        key: fmean(part.numbers.get(key, 0.0) for part in (parts if key.name == "weight" else merged))
        for key in merged[0].numbers
    }
    first = merged[0]
    return Mix(operator=first.operator, plain=first.plain, numbers=numbers, words=first.words)
