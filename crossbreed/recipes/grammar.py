"""The grammar of recipes: text <-> Recipe, and the rule that applies to a tensor.

Parsing is strict, because recipes are the key for caching, publishing and reproducing merges: an unknown key, an
operator without its weight or a missing source is an error here, with its location, and never occurs later.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml

from crossbreed.errors import InputError
from crossbreed.json_text import parse_json
from crossbreed.parsing import any_of, hint_at_boolean, hint_at_number, require_keys, shown, type_name
from crossbreed.patterns import Matcher, full_matcher, part_matcher
from crossbreed.recipes.layers import parse_layers
from crossbreed.recipes.operators import OPERATOR_SPECS, OPERATORS, OperatorSpec, ParamKind, ParamSpec
from crossbreed.text_files import read_text
from crossbreed.types import RECIPE_SCHEMA, Dtype, Numbers, ParamValue, Recipe, Rule
from crossbreed.yaml_files import MAX_BYTES, read_yaml

DTYPES: tuple[str, ...] = get_args(Dtype)
_RECIPE_KEYS = ("schema", "base", "sources", "rules", "dtype", "artifacts", "layers")
_COMPARED = 200
"""Characters of a pattern that are compared with names, for a suggestion."""
_RULE_KEYS = ("match", "operator", "params")


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe from a YAML or JSON file.

    Raises:
        InputError: there is no such file, or it is not a recipe.
    """
    text = read_text(path, what="the recipe", max_bytes=MAX_BYTES)
    if path.suffix != ".json":
        return parse_recipe(read_yaml(text, what="the recipe", where=str(path)), where=str(path))
    try:
        content = parse_json(text)  # no YAML: `1e-5` is a text there
    except ValueError as fault:
        raise InputError("the recipe is not JSON that can be read", got=str(fault), where=str(path)) from None
    return parse_recipe(content, where=str(path))


def dump_recipe(recipe: Recipe) -> str:
    """Returns the recipe as YAML; `parse_recipe(yaml.safe_load(dump_recipe(r))) == r`, and the ids agree."""
    return yaml.dump(recipe.to_json(), Dumper=_Dumper, sort_keys=False, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes lists of numbers in lines, of which recipes of rank components have thousands, and steps of a path."""

    def represent_list(self, data: Iterable[Any]) -> yaml.SequenceNode:
        """See yaml's own."""
        items = [*data]
        is_row = bool(items) and isinstance(items[-1], float)
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=is_row or None)


_Dumper.add_representer(list, _Dumper.represent_list)


def parse_recipe(mapping: Mapping[str, Any], *, where: str = "recipe", is_recorded: bool = False) -> Recipe:
    """Returns the recipe that a mapping (of `Recipe.to_json`) stands for.

    Args:
        mapping: The content of a YAML or JSON file.
        where: The file, for errors.
        is_recorded: Takes rules of operators that are not installed as they are: a run checked them when it wrote them.

    Raises:
        InputError: it is invalid; the message gives the first problem, its location and a fix.
    """
    if isinstance(mapping, Mapping) and "fitness" in mapping:
        raise InputError(
            "this is a run's spec",
            expected="a recipe",
            where=where,
            fix="run it with `crossbreed run`; the recipes found are in the run folder's `recipes`",
        )
    require_keys(mapping, _RECIPE_KEYS, needed=("schema", "base", "sources", "rules"), where=where)
    if mapping["schema"] != RECIPE_SCHEMA:
        raise InputError(
            "the recipe has another schema", expected=str(RECIPE_SCHEMA), got=shown(mapping["schema"]), where=where
        )
    sources = _strings(mapping["sources"], where=f"{where}, sources")
    base = mapping["base"]
    if not isinstance(base, str) or base not in sources:
        expected, fix = any_of(sources), hint_at_boolean(base)
        raise InputError("`base` is not one of the sources", expected=expected, got=shown(base), where=where, fix=fix)
    if not isinstance(mapping["rules"], list | tuple):
        raise InputError(
            "`rules` is not a list", expected="a list of rules", got=type_name(mapping["rules"]), where=where
        )
    dtype = mapping.get("dtype", "bfloat16")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError("no such dtype", expected=any_of(DTYPES), got=shown(dtype), where=where)
    return Recipe(
        base=base,
        sources=sources,
        rules=tuple(
            _recorded_rule(rule)
            if is_recorded and not _is_installed(rule)
            else _parse_rule(
                rule, base=base, sources=sources, where=f"{where}, rules[{index}]", is_recorded=is_recorded
            )
            for index, rule in enumerate(mapping["rules"])
        ),
        dtype=dtype,
        artifacts=_strings(mapping.get("artifacts", {}), where=f"{where}, artifacts"),
        layers=parse_layers(mapping.get("layers", ()), sources, where=where),
    )


def rule_finder(recipe: Recipe) -> Callable[[str], Rule | None]:
    """Returns a function from a tensor's name to its rule: the first whose pattern matches the whole name."""
    compiled = [(rule_matcher(rule), rule) for rule in recipe.rules]
    return lambda name: next((rule for matches, rule in compiled if matches(name)), None)


def rule_matcher(rule: Rule) -> Matcher:
    """Returns the function that tells whether a tensor's whole name matches a rule.

    Recipes that are read are of one dialect; those that a run recorded before there was one may be of Python's.
    """
    try:
        return full_matcher(rule.match)
    except ValueError:
        pattern = re.compile(rule.match)
        return lambda name: pattern.fullmatch(name) is not None


def require_matches(recipe: Recipe, tensors: Iterable[str], *, where: str) -> None:
    """Checks that every rule matches a tensor: a recipe is for one base, so any other rule is a mistake.

    A rule that matches only tensors of earlier rules is valid, for example a last `.*` after rules that cover all.

    Args:
        recipe: A recipe written by a person: those of search spaces are generated from the names.
        tensors: Names of the base's tensors.
        where: The file, for errors.

    Raises:
        InputError: a rule matches none; the message gives the rule and the names nearest to its pattern.
    """
    names = sorted(tensors)
    for index, rule in enumerate(recipe.rules):
        if not any(map(full_matcher(rule.match), names)):
            is_part = any(map(part_matcher(rule.match), names))
            near = get_close_matches(rule.match[:_COMPARED], names, n=3, cutoff=0.0)
            raise InputError(
                "a rule matches no tensor of the base",
                expected=f"a regular expression that matches the whole name of a tensor, for example {any_of(near)}",
                got=f"match: {rule.match}",
                where=f"{where}, rules[{index}]",
                fix=f"it matches part of a name: write .*({rule.match}).*" if is_part else "correct or remove the rule",
            )


def require_weights(recipe: Recipe, *, where: str) -> None:
    """Checks that no rule divides by weights that sum to 0: in a search that is a bad candidate, here a mistake.

    Args:
        recipe: A recipe written by a person.
        where: The file, for errors.

    Raises:
        InputError: a rule does; the message gives its weights.
    """
    experts = tuple(name for name in recipe.sources if name != recipe.base)
    for index, rule in enumerate(recipe.rules):
        spec = OPERATOR_SPECS[rule.operator]
        if weights := spec.cancelling(rule, experts, recipe.base):
            raise weights_cancel(spec.name, weights, where=f"{where}, rules[{index}]")


def weights_cancel(operator: str, weights: Mapping[str, float], *, where: str, flag: str = "normalize") -> InputError:
    """Returns the error of weights that sum to 0 where the operator divides by their sum."""
    return InputError(
        f"the weights of `{operator}` sum to 0, and it divides by their sum",
        expected="weights with another sum",
        got=", ".join(f"{name}: {weight:g}" for name, weight in weights.items()),
        where=where,
        fix="change a weight" if operator == "karcher" else f"change a weight, or set `{flag}: false`",
    )


def _is_installed(rule: Any) -> bool:
    """Whether a rule can be parsed; one that is no rule is left to the parser."""
    return not isinstance(rule, Mapping) or rule.keys() != set(_RULE_KEYS) or rule["operator"] in OPERATORS


def _recorded_rule(rule: Mapping[str, Any]) -> Rule:
    numbers = {name: _widened(value) for name, value in rule["params"].items()}
    return Rule(match=rule["match"], operator=rule["operator"], params=numbers)


def _widened(value: Any) -> ParamValue:  # a value of Rule.params, as JSON
    if isinstance(value, Mapping) and any(isinstance(one, list | tuple) for one in value.values()):
        return {name: tuple(map(float, numbers)) for name, numbers in value.items()}
    if isinstance(value, Mapping):
        return {name: float(number) for name, number in value.items()}
    return value if isinstance(value, bool | str) else float(value)


def _parse_rule(value: Any, *, base: str, sources: Mapping[str, str], where: str, is_recorded: bool) -> Rule:
    require_keys(value, _RULE_KEYS, needed=("match", "operator"), where=where)
    try:
        re.compile(value["match"]) if is_recorded else full_matcher(value["match"])
    except (TypeError, ValueError) as fault:  # TypeError: a list, which no cache takes
        raise InputError(
            "`match` is not a regular expression over tensor names",
            expected=r"for example model\.layers\.\d+\.mlp\..*",
            got=f"{shown(value['match'])} ({fault})",
            where=where,
        ) from None
    OPERATORS.require(value["operator"], where=f"{where}.operator")
    spec = OPERATOR_SPECS[value["operator"]]
    experts = tuple(name for name in sources if name != base)
    if wanted := spec.why_invalid(len(experts)):
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
    takers = {ParamKind.SOURCE: tuple(sources), ParamKind.EXPERT: experts, ParamKind.NUMBERS: experts}
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
                f"`{param.name}` is not a source", expected=any_of(sources), got=name, where=f"{where}.params"
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
                        f"`{param.name}` of `{expert}` is too large for its `{limit.by}` {others[expert]:g}",
                        expected=limit.about,
                        got=f"{value:g}",
                        where=f"{where}.params",
                    )


def _parse_param(value: Any, param: ParamSpec, takers: Iterable[str], where: str) -> ParamValue:
    where = f"{where}.{param.name}"
    if param.is_per_source and isinstance(value, Mapping):
        require_keys(value, tuple(takers), where=where)
        return {str(name): _number(number, param, f"{where}.{name}") for name, number in value.items()}
    if param.kind is ParamKind.NUMBERS:
        _refuse(value, param, where)
        require_keys(value, tuple(takers), where=where)
        return {str(name): tuple(map(float, numbers)) for name, numbers in value.items()}
    if isinstance(value, bool | str):
        _refuse(value, param, where)
        return value
    return _number(value, param, where)


def _number(value: Any, param: ParamSpec, where: str) -> float:
    _refuse(value, param, where)
    return float(value)


def _refuse(value: Any, param: ParamSpec, where: str) -> None:
    if wanted := param.why_invalid(value):
        fix = hint_at_number(value)
        raise InputError(f"`{param.name}` has no valid value", expected=wanted, got=shown(value), where=where, fix=fix)


def _strings(value: Any, *, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        fix = hint_at_boolean(value)
        raise InputError(f"`{where}` is not a mapping of names to hashes", got=shown(value), where=where, fix=fix)
    return dict(value)


def renamed(value: Mapping[str, float] | Numbers, names: Mapping[str, str]) -> Mapping[str, float] | Numbers:
    """Returns a parameter for sources with other names; those not in `names` keep theirs."""
    changed: Any = {names.get(name, name): number for name, number in value.items()}
    found: Mapping[str, float] | Numbers = changed
    return found
