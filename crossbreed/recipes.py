"""The recipe's grammar: text <-> Recipe, and which rule a tensor obeys.

Parsing is strict, because a recipe is what everything is cached, published and reproduced by: an unknown key, an
operator without its weight or a source that is not there is refused here, with the place, and never met later.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from crossbreed.errors import InputError
from crossbreed.operators import OPERATOR_SPECS, OperatorSpec, ParamKind, ParamSpec
from crossbreed.parsing import any_of, hint_at_exponent, kind, require_keys, suggestion
from crossbreed.types import RECIPE_SCHEMA, ParamValue, Recipe, Rule

DTYPES = ("bfloat16", "float16", "float32")
_RECIPE_KEYS = ("schema", "base", "sources", "rules", "dtype", "artifacts")
_RULE_KEYS = ("match", "operator", "params")


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe from a YAML or JSON file.

    Raises:
        InputError: when there is no such file, or it is no recipe.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError("the recipe cannot be read", expected="a YAML or JSON file", got=str(fault)) from None
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as fault:
        raise InputError("the recipe is not well-formed", got=str(fault), where=str(path)) from None
    return parse_recipe(content, where=str(path))


def dump_recipe(recipe: Recipe) -> str:
    """Returns the recipe as YAML; `parse_recipe(yaml.safe_load(dump_recipe(r))) == r`, and the ids agree."""
    return yaml.safe_dump(recipe.to_json(), sort_keys=False)


def parse_recipe(mapping: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """Returns the recipe that a mapping (of `Recipe.to_json`) stands for.

    Args:
        mapping: What a YAML or JSON file holds.
        where: The file, for errors.

    Raises:
        InputError: naming the first thing that is wrong, where it is, and how to mend it.
    """
    if isinstance(mapping, Mapping) and "fitness" in mapping:
        raise InputError(
            "this is a run's spec",
            expected="a recipe",
            where=where,
            fix="run it: `crossbreed run`; the recipes that it finds are in its folder's `recipes`",
        )
    require_keys(mapping, _RECIPE_KEYS, needed=("schema", "base", "sources", "rules"), where=where)
    if mapping["schema"] != RECIPE_SCHEMA:
        raise InputError(
            "the recipe is of another schema", expected=str(RECIPE_SCHEMA), got=repr(mapping["schema"]), where=where
        )
    sources = _strings(mapping["sources"], where=f"{where}, sources")
    base = mapping["base"]
    if base not in sources:
        raise InputError("`base` is not one of the sources", expected=any_of(sources), got=repr(base), where=where)
    if not isinstance(mapping["rules"], list | tuple):
        raise InputError("`rules` is not a list", expected="a list of rules", got=kind(mapping["rules"]), where=where)
    dtype = mapping.get("dtype", "bfloat16")
    if dtype not in DTYPES:
        raise InputError("no such dtype", expected=any_of(DTYPES), got=repr(dtype), where=where)
    return Recipe(
        base=base,
        sources=sources,
        rules=tuple(
            _parse_rule(rule, base=base, sources=sources, where=f"{where}, rules[{index}]")
            for index, rule in enumerate(mapping["rules"])
        ),
        dtype=dtype,
        artifacts=_strings(mapping.get("artifacts", {}), where=f"{where}, artifacts"),
    )


def rule_finder(recipe: Recipe) -> Callable[[str], Rule | None]:
    """Returns the function that finds the rule which a tensor obeys: the first whose pattern is its whole name."""
    compiled = [(re.compile(rule.match), rule) for rule in recipe.rules]
    return lambda name: next((rule for pattern, rule in compiled if pattern.fullmatch(name)), None)


def require_matches(recipe: Recipe, tensors: Iterable[str], *, where: str) -> None:
    """Refuses a rule whose pattern is no tensor's name: a recipe is of one base, so it is a slip that merges nothing.

    One that only tensors of earlier rules match is let through, as every last `.*` is where others have taken all.

    Args:
        recipe: Of a person: those of search spaces are made from the names.
        tensors: Names of the base's tensors.
        where: The file, for errors.

    Raises:
        InputError: naming the rule, and the tensors' names that are nearest to its pattern.
    """
    names = sorted(tensors)
    for index, rule in enumerate(recipe.rules):
        pattern = re.compile(rule.match)
        if not any(map(pattern.fullmatch, names)):
            is_part = any(map(pattern.search, names))
            near = get_close_matches(rule.match, names, n=3, cutoff=0.0)
            raise InputError(
                "a rule fits no tensor of the base, and would change nothing",
                expected=f"a regular expression that is the whole name of a tensor, for example of {any_of(near)}",
                got=f"match: {rule.match}",
                where=f"{where}, rules[{index}]",
                fix=f"it fits a part of a name: write .*({rule.match}).*" if is_part else "correct or remove the rule",
            )


def _parse_rule(value: Any, *, base: str, sources: Mapping[str, str], where: str) -> Rule:
    require_keys(value, _RULE_KEYS, needed=("match", "operator"), where=where)
    try:
        re.compile(value["match"])
    except (re.error, TypeError) as fault:
        raise InputError(
            "`match` is not a regular expression over tensor names",
            expected=r"for example model\.layers\.\d+\.mlp\..*",
            got=f"{value['match']!r} ({fault})",
            where=where,
        ) from None
    spec = OPERATOR_SPECS.get(value["operator"]) if isinstance(value["operator"], str) else None
    if spec is None:
        raise InputError(
            "no such operator",
            expected=any_of(OPERATOR_SPECS),
            got=repr(value["operator"]),
            where=f"{where}.operator",
            fix=suggestion(value["operator"], OPERATOR_SPECS),
        )
    experts = tuple(name for name in sources if name != base)
    if wanted := spec.fault(len(experts)):
        raise InputError(
            f"`{spec.name}` does not merge this number of experts",
            expected=wanted,
            got=f"{len(experts)}: {any_of(experts)}",
            where=f"{where}.operator",
        )
    names = [param.name for param in spec.params]
    needed = [param.name for param in spec.params if param.required]
    params = value.get("params", {})
    require_keys(params, names, needed=needed, where=f"{where}.params")
    takers = {ParamKind.SOURCE: tuple(sources), ParamKind.EXPERT: experts}
    rule = Rule(
        match=value["match"],
        operator=spec.name,
        params={
            param.name: _parse_param(params[param.name], param, takers.get(param.kind, ()), f"{where}.params")
            for param in spec.params
            if param.name in params
        },
    )
    for param in spec.params:
        if param.kind is ParamKind.NAME and (name := spec.word(rule, param.name)) not in sources:
            raise InputError(
                f"`{param.name}` is no source", expected=any_of(sources), got=name, where=f"{where}.params"
            )
    _check_limits(rule, spec, experts, where)
    return rule


def _check_limits(rule: Rule, spec: OperatorSpec, experts: tuple[str, ...], where: str) -> None:
    for param in spec.params:
        if (limit := param.limit) is not None:
            values, others = (spec.per_source(rule, name, experts) for name in (param.name, limit.by))
            for expert, value in values.items():
                if value >= limit.of(others[expert]):
                    raise InputError(
                        f"`{param.name}` of `{expert}` does not go with its `{limit.by}` {others[expert]:g}",
                        expected=limit.about,
                        got=f"{value:g}",
                        where=f"{where}.params",
                    )


def _parse_param(value: Any, param: ParamSpec, takers: Iterable[str], where: str) -> ParamValue:
    where = f"{where}.{param.name}"
    if param.of_each and isinstance(value, Mapping):
        require_keys(value, tuple(takers), where=where)
        return {str(name): _number(number, param, f"{where}.{name}") for name, number in value.items()}
    if isinstance(value, bool | str):
        _refuse(value, param, where)
        return value
    return _number(value, param, where)


def _number(value: Any, param: ParamSpec, where: str) -> float:
    _refuse(value, param, where)
    return float(value)


def _refuse(value: Any, param: ParamSpec, where: str) -> None:
    if wanted := param.fault(value):
        fix = hint_at_exponent(value)
        raise InputError(f"`{param.name}` has no valid value", expected=wanted, got=repr(value), where=where, fix=fix)


def _strings(value: Any, *, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise InputError(f"`{where}` is not a mapping of names to hashes", got=repr(value), where=where)
    return dict(value)
