"""The recipe's grammar: text <-> Recipe, which rule a tensor obeys, and the same merge in mergekit's words.

Parsing is strict, because a recipe is what everything is cached, published and reproduced by: an unknown key, an
operator without its weight or a source that is not there is refused here, with the place, and never met later.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import yaml

from crossbreed.errors import InputError
from crossbreed.operators import DEPTH_PROFILE, OPERATOR_SPECS, OperatorSpec, ParamKind, ParamSpec
from crossbreed.parsing import any_of, kind, require_keys, suggestion
from crossbreed.sources.structure import Structure, depth_of, layer_of
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


def why_not_mergekit(recipe: Recipe, structure: Structure, paths: Mapping[str, str]) -> str | None:
    """Returns why mergekit 0.1.5 cannot express the recipe, or None: it can."""
    operators = {rule.operator for rule in recipe.rules}
    if len(operators) > 1:
        return f"mergekit has one method a file, and the recipe uses {any_of(sorted(operators))}"
    for rule in recipe.rules:
        if reason := _why_not_rule(rule):
            return reason
    if structure.num_layers == 0:
        return "mergekit merges by layers, and the model has none"
    used = [paths[name] for name in recipe.sources]
    if len(set(used)) < len(used):
        return "mergekit tells models apart by their paths, and two sources have the same"
    if marked := [path for path in used if "+" in path]:
        return f"mergekit reads the `+` in `{marked[0]}` as an adapter's mark"
    return None


def to_mergekit(
    recipe: Recipe,
    structure: Structure,
    paths: Mapping[str, str],
    adapters: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any] | None:
    """Returns the same merge as a mergekit 0.1.5 configuration, or None where `why_not_mergekit` has a reason.

    Layers that are merged alike make a slice. mergekit must be run with `--lora-merge-dtype float32` where there are
    adapters.

    Args:
        recipe: The merge.
        structure: The tensors of its base.
        paths: Source name -> folder or hub id, as mergekit is to find it.
        adapters: Name of each expert that is an adapter -> path of the base that it is merged into.
    """
    if why_not_mergekit(recipe, structure, paths):
        return None
    spec = OPERATOR_SPECS[recipe.rules[0].operator if recipe.rules else "task_arithmetic"]
    models = {name: f"{adapters[name]}+{path}" if name in adapters else path for name, path in paths.items()}
    find_rule, untouched = rule_finder(recipe), _keep_base(recipe, spec)
    depths = {name: depth_of(name, structure.num_layers) for name in structure.tensors}
    settings = {name: _settings(recipe, spec, find_rule(name) or untouched, depths[name]) for name in depths}
    shared = [key for key in _settings(recipe, spec, untouched, None) if key.source is None]
    constant = [key for key in shared if len({setting[key] for setting in settings.values()}) == 1]
    first = next(iter(settings.values()))
    return {
        "merge_method": spec.name,
        "base_model": models[recipe.base],
        "dtype": "float32",
        "out_dtype": recipe.dtype,
        "parameters": {**_MERGEKIT_FIXED[spec.name], **{key.name: first[key] for key in constant}},
        "slices": _slices(settings, {name: models[name] for name in recipe.sources}, structure.num_layers, constant),
    }


def _why_not_rule(rule: Rule) -> str | None:
    spec = OPERATOR_SPECS[rule.operator]
    if spec.name not in _MERGEKIT_FIXED:
        return f"mergekit has no method that makes the tensors of `{spec.name}`"
    for param in spec.params:
        if param.kind is ParamKind.CHOICE and (word := spec.word(rule, param.name)) != param.default:
            return f"mergekit's {spec.name} has no {param.name} `{word}`"
    has_profile = any(spec.scalar(rule, param.name) != param.default for param in DEPTH_PROFILE)
    if has_profile and spec.param("scale") is None:
        return f"mergekit's {spec.name} has no lambda, by which a depth profile would be said"
    return None


class _Key(NamedTuple):
    """A parameter in mergekit's words; of a source, or of none."""

    source: str | None
    name: str


_MERGEKIT_NAMES = {"scale": "lambda"}
_MERGEKIT_FIXED: Mapping[str, Mapping[str, bool]] = {
    "linear": {},
    "task_arithmetic": {"normalize": False},
    "ties": {"rescale": False},
}
"""Operator that mergekit has with the same meaning -> what it must be told besides the parameters."""
_Settings: TypeAlias = Mapping[_Key, float | bool]


def _keep_base(recipe: Recipe, spec: OperatorSpec) -> Rule:
    """What no rule matches: no weight but the base's, and for the rest whatever the first rule says."""
    weight: ParamValue = {recipe.base: 1.0} if spec.name == "linear" else 0.0
    params = recipe.rules[0].params if recipe.rules else {}
    return Rule(match="", operator=spec.name, params={**params, "weight": weight})


def _settings(recipe: Recipe, spec: OperatorSpec, rule: Rule, depth: float | None) -> dict[_Key, float | bool]:
    experts = tuple(name for name in recipe.sources if name != recipe.base)
    settings: dict[_Key, float | bool] = {}
    for param in spec.params:
        if param in DEPTH_PROFILE or param.kind is ParamKind.CHOICE:
            continue  # a part of lambda; and mergekit's own choice
        name = _MERGEKIT_NAMES.get(param.name, param.name)
        if param.of_each:
            takers = tuple(recipe.sources) if param.kind is ParamKind.SOURCE else experts
            values = spec.per_source(rule, param.name, takers)
            settings |= {_Key(source, name): value for source, value in values.items()}
        else:
            value = spec.scalar(rule, param.name) * (spec.depth_factor(rule, depth) if param.name == "scale" else 1)
            settings[_Key(None, name)] = bool(value) if param.kind is ParamKind.FLAG else value
    return settings


def _slices(
    settings: Mapping[str, _Settings], models: Mapping[str, str], num_layers: int, constant: Collection[_Key]
) -> list[dict[str, Any]]:
    layers: list[dict[str, _Settings]] = [{} for _ in range(num_layers)]
    outside: dict[str, _Settings] = {}  # embeddings take the first slice's parameters; final norm and head, the last's
    for name, setting in settings.items():
        if (layer := layer_of(name)) is None:
            outside[name] = setting
        else:
            layers[layer]["." + name.split(f".{layer}.", 1)[1]] = setting
    slices = []
    for alike, numbers in groupby(range(num_layers), key=layers.__getitem__):
        first, *rest = numbers
        last = [first, *rest][-1]
        tensors = alike | (outside if first == 0 or last == num_layers - 1 else {})
        entry: dict[str, Any] = {
            "sources": [
                {"model": model, "layer_range": [first, last + 1], **_parameters(tensors, source)}
                for source, model in models.items()
            ]
        }
        slices.append(entry | _parameters(tensors, None, constant))
    return slices


def _parameters(tensors: Mapping[str, _Settings], source: str | None, but: Collection[_Key] = ()) -> dict[str, Any]:
    keys = [key for key in next(iter(tensors.values())) if key.source == source and key not in but]
    values = {key.name: _filtered({name: setting[key] for name, setting in tensors.items()}) for key in keys}
    return {"parameters": values} if values else {}


def _filtered(values: Mapping[str, float | bool]) -> float | bool | list[dict[str, float | bool | str]]:
    """Returns one value, or mergekit's list of (substring of the tensor's name -> value), of which the first counts."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    filters: dict[str, float | bool] = {}
    for name, value in values.items():
        alone = (part for part in _parts(name) if {values[other] for other in values if part in other} == {value})
        filters[next(alone, name)] = value
    whole_names_last = sorted(filters, key=lambda part: (part in values, -len(part)))
    return [{"filter": part, "value": filters[part]} for part in whole_names_last]


def _parts(name: str) -> Iterator[str]:
    """Yields what might stand for a tensor: its module, the module's parts, itself; outside of layers, itself alone."""
    if name.startswith("."):
        yield from (name[: match.end()] for match in re.finditer(r"(?<!^)\.", name))
    yield name


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
        hint = "YAML reads 1e-5 as text: write 1.0e-5" if isinstance(value, str) and "e" in value.lower() else ""
        raise InputError(f"`{param.name}` has no valid value", expected=wanted, got=repr(value), where=where, fix=hint)


def _strings(value: Any, *, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise InputError(f"`{where}` is not a mapping of names to hashes", got=repr(value), where=where)
    return dict(value)
