"""Converts a recipe to a configuration from which mergekit 0.1.5 makes the same tensors (in float32, rounded once).

Only conversions verified by tests/parity are made. mergekit has further methods with the names of our operators, which
give other tensors (`_OTHERWISE`).
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from crossbreed.mergekit.methods import METHODS
from crossbreed.mergekit.stacking import stacked_slices, why_not_stacked
from crossbreed.parsing import any_of
from crossbreed.recipes import rule_finder
from crossbreed.recipes.operators import DEPTH_PROFILE, OPERATOR_SPECS, OperatorSpec, ParamKind
from crossbreed.sources.naming import depth_of, is_before_layers, layer_of, place_of
from crossbreed.sources.structure import Structure
from crossbreed.types import ParamValue, Recipe, Rule


class _Key(NamedTuple):
    """A parameter of mergekit, of one source or of the whole merge (None)."""

    source: str | None
    name: str


_Value: TypeAlias = float | bool
_Settings: TypeAlias = Mapping[_Key, _Value]
_NO_WEIGHT: Mapping[str, ParamValue] = MappingProxyType({"weight": 0.0})
_NOWHERE: Mapping[str, ParamValue] = MappingProxyType({"t": 0.0})
_NO_CHANGE: Mapping[str, ParamValue] = MappingProxyType({"epsilon": 1e30})
"""A threshold larger than any change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Same:
    """A method of mergekit that is equivalent to one of our operators."""

    name: str
    keeps: Mapping[str, ParamValue] | None = None
    """Our parameters with which a tensor stays the base's; None: there are none."""
    fixed: Mapping[str, bool] = field(default_factory=dict)
    """Flags that it needs besides the parameters."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Our parameter -> mergekit's, if the names differ."""
    flags: Mapping[str, Mapping[str, Mapping[str, bool]]] = field(default_factory=dict)
    """Our choice -> option -> the equivalent flags."""

    def name_of(self, param: str) -> str | None:
        """Returns mergekit's name of our parameter; None if it has no such parameter."""
        name = self.renamed.get(param, param)
        return name if METHODS[self.name].parameter(name) else None


_SCALE = {"scale": "lambda"}
_ALONG = {
    "tensor": {"nuslerp_flatten": True, "nuslerp_row_wise": False},
    "rows": {"nuslerp_flatten": False, "nuslerp_row_wise": False},
    "columns": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
}
_SAME: Mapping[str, _Same] = MappingProxyType(
    {
        "linear": _Same(name="linear", keeps=_NO_WEIGHT),  # except the base's
        "task_arithmetic": _Same(name="task_arithmetic", keeps=_NO_WEIGHT, fixed={"normalize": False}, renamed=_SCALE),
        "ties": _Same(name="ties", keeps=_NO_WEIGHT, fixed={"rescale": False}, renamed=_SCALE),
        "breadcrumbs": _Same(name="breadcrumbs", keeps=_NO_WEIGHT, renamed=_SCALE),
        "breadcrumbs_ties": _Same(name="breadcrumbs_ties", keeps=_NO_WEIGHT, renamed=_SCALE),
        "slerp": _Same(name="slerp", keeps=_NOWHERE),
        "nuslerp": _Same(name="nuslerp", flags={"along": _ALONG}),
        "model_stock": _Same(name="model_stock"),
        "nearswap": _Same(name="nearswap", keeps=_NOWHERE),
        "ram": _Same(name="ram", keeps=_NO_CHANGE),
        "ramplus": _Same(name="ramplus_tl", keeps=_NO_CHANGE),
        "passthrough": _Same(name="passthrough"),
    }
)
_MASKS = "draws random masks of its own"
_OTHERWISE: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("dare_linear", "dare_ties", "della", "della_linear"), _MASKS),
        "karcher": "steps by angles that float32 hardly holds, and stops elsewhere",
        "multislerp": "multiplies by lengths whose last digits float32 does not hold",
        "sce": "weighs experts alike whose deltas are small",
        "arcee_fusion": "takes quartiles of a random sample, and divergences that float32 does not hold",
    }
)
"""Operator -> the reason why mergekit's method of that name gives other tensors."""


def why_not_mergekit(recipe: Recipe, structure: Structure, paths: Mapping[str, str]) -> str | None:
    """Returns why mergekit 0.1.5 cannot express the recipe; None if it can."""
    operators = {rule.operator for rule in recipe.rules}
    if len(operators) > 1:
        return f"mergekit has one method per file, and the recipe uses {any_of(sorted(operators))}"
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
    if recipe.layers:
        return why_not_stacked(recipe, structure, _changes(recipe, structure))
    if operators == {"passthrough"}:
        mixed = [layer for layer, source in enumerate(_sources_of_layers(recipe, structure)) if source is None]
        return f"mergekit passes layers through whole, and layer {mixed[0]} is of several sources" if mixed else None
    return _why_not_tensors(recipe, structure)


def to_mergekit(
    recipe: Recipe,
    structure: Structure,
    paths: Mapping[str, str],
    adapters: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any] | None:
    """Returns the same merge as a mergekit 0.1.5 configuration; None if `why_not_mergekit` returns a reason.

    Layers that are merged alike form a slice. With adapters, mergekit must be run with `--lora-merge-dtype float32`.

    Args:
        recipe: The merge.
        structure: The tensors of its base, and which of them each source changes.
        paths: Source name -> folder or hub id, for mergekit.
        adapters: Name of each expert that is an adapter -> path of the base into which it is merged.
    """
    if why_not_mergekit(recipe, structure, paths):
        return None
    spec = OPERATOR_SPECS[recipe.rules[0].operator if recipe.rules else "task_arithmetic"]
    same = _SAME[spec.name]
    models = {name: f"{adapters[name]}+{path}" if name in adapters else path for name, path in paths.items()}
    if recipe.layers:
        return stacked_slices(recipe, structure, models)
    find_rule, untouched = rule_finder(recipe), _keep_base(recipe, spec)
    depths = {name: depth_of(name, structure.num_layers) for name in structure.tensors}
    settings = {name: _settings(recipe, spec, find_rule(name) or untouched, depths[name]) for name in depths}
    shared = [key for key in _settings(recipe, spec, untouched, None) if key.source is None]
    constant = [key for key in shared if len({setting[key] for setting in settings.values()}) == 1]
    first = next(iter(settings.values()))
    listed = [tuple(recipe.sources)] * structure.num_layers
    if spec.name == "passthrough":
        listed = [(source,) for source in _sources_of_layers(recipe, structure) if source is not None]
    return {
        "merge_method": same.name,
        "base_model": models[recipe.base],
        "dtype": "float32",
        "out_dtype": recipe.dtype,
        "parameters": {**same.fixed, **{key.name: first[key] for key in constant}},
        "slices": _slices(settings, [{name: models[name] for name in names} for names in listed], constant),
    }


def _why_not_rule(rule: Rule) -> str | None:
    spec = OPERATOR_SPECS[rule.operator]
    if why := _OTHERWISE.get(spec.name):
        return f"mergekit's {spec.name} {why}"
    if (same := _SAME.get(spec.name)) is None:
        return f"mergekit has no method that makes the tensors of `{spec.name}`"
    for param in spec.params:
        said = rule.params.get(param.name, param.default)
        others = [value for value in (said.values() if isinstance(said, Mapping) else [said]) if value != param.default]
        if not others or param in DEPTH_PROFILE or param.kind is ParamKind.NAME or param.name in same.flags:
            continue
        if param.kind is ParamKind.CHOICE:
            return f"mergekit's {same.name} has no {param.name} `{others[0]}`"
        if same.name_of(param.name) is None:
            return f"mergekit's {same.name} has no {param.name}"
    has_profile = any(spec.scalar(rule, param.name) != param.default for param in DEPTH_PROFILE)
    if has_profile and METHODS[same.name].parameter("lambda") is None:
        return f"mergekit's {same.name} has no lambda, by which a depth profile would be said"
    return None


def _why_not_tensors(recipe: Recipe, structure: Structure) -> str | None:
    """Returns the reason, if any, that depends on which tensors the rules match and the experts change."""
    operator = recipe.rules[0].operator if recipe.rules else "task_arithmetic"
    if _SAME[operator].keeps is not None:
        return None
    name, find_rule = _SAME[operator].name, rule_finder(recipe)
    changed = frozenset[str]().union(*_changes(recipe, structure).values())
    if spared := sorted(tensor for tensor in changed if find_rule(tensor) is None):
        return f"mergekit's {name} merges every tensor, and no rule matches `{spared[0]}`"
    return None


def _changes(recipe: Recipe, structure: Structure) -> dict[str, frozenset[str]]:
    """Returns which tensors each source of the recipe changes."""
    by_hash = {structure.hashes[name]: touched for name, touched in structure.touched.items()}
    return {name: by_hash.get(hash_, frozenset()) for name, hash_ in recipe.sources.items()}


def _sources_of_layers(recipe: Recipe, structure: Structure) -> list[str | None]:
    """Returns the source of each layer; None for a layer with several.

    Tensors before the layers belong to the first, those after them to the last.
    """
    spec, find_rule, changes = OPERATOR_SPECS["passthrough"], rule_finder(recipe), _changes(recipe, structure)
    left = [list(recipe.sources) for _ in range(structure.num_layers)]
    for name in structure.tensors:
        rule, layer = find_rule(name), layer_of(name)
        source = recipe.base if rule is None else spec.word(rule, "source")
        if layer is None:
            layer = 0 if is_before_layers(name) else -1
        left[layer] = [
            other
            for other in left[layer]
            if other == source or (name not in changes[source] and name not in changes[other])
        ]
    return [next(iter(sources), None) for sources in left]


def _keep_base(recipe: Recipe, spec: OperatorSpec) -> Rule:
    """Returns the rule for unmatched tensors: the first rule's parameters, with those that keep the base's tensor."""
    params = recipe.rules[0].params if recipe.rules else {}
    keeps: Mapping[str, ParamValue] = _SAME[spec.name].keeps or {}
    if spec.name == "linear":
        keeps = {"weight": {recipe.base: 1.0}}
    if spec.name == "passthrough":
        params = {"source": recipe.base}
    return Rule(match="", operator=spec.name, params={**params, **keeps})


def _settings(recipe: Recipe, spec: OperatorSpec, rule: Rule, depth: float | None) -> dict[_Key, _Value]:
    same, experts = _SAME[spec.name], tuple(name for name in recipe.sources if name != recipe.base)
    settings: dict[_Key, _Value] = {}
    for param in spec.params:
        if param.name in same.flags:
            flags = same.flags[param.name][spec.word(rule, param.name)]
            settings |= {_Key(None, name): flag for name, flag in flags.items()}
        name = same.name_of(param.name)
        if name is None or param in DEPTH_PROFILE:
            continue  # at its default, which has no effect; or a part of lambda
        if param.is_per_source:
            takers = tuple(recipe.sources) if param.kind is ParamKind.SOURCE else experts
            values = spec.per_source(rule, param.name, takers)
            settings |= {_Key(source, name): value for source, value in values.items()}
        else:
            value = spec.scalar(rule, param.name) * (spec.depth_factor(rule, depth) if name == "lambda" else 1)
            kind = bool if param.kind is ParamKind.FLAG else int if param.integer else float
            settings[_Key(None, name)] = kind(value)
    return settings


def _slices(
    settings: Mapping[str, _Settings], models: Sequence[Mapping[str, str]], constant: Collection[_Key]
) -> list[dict[str, Any]]:
    """Returns mergekit's slices: consecutive layers with the same settings and models."""
    layers: list[dict[str, _Settings]] = [{} for _ in models]
    outside: dict[str, _Settings] = {}  # embeddings take the first slice's parameters; final norm and head, the last's
    for name, setting in settings.items():
        place = place_of(name)
        if place.layer is None:
            outside[name] = setting
        else:
            layers[place.layer][f".{place.within}"] = setting
    slices = []
    for (alike, listed), numbers in groupby(range(len(layers)), key=lambda layer: (layers[layer], models[layer])):
        first, *rest = numbers
        last = [first, *rest][-1]
        tensors = alike | (outside if first == 0 or last == len(layers) - 1 else {})
        entry: dict[str, Any] = {
            "sources": [
                {"model": model, "layer_range": [first, last + 1], **_parameters(tensors, source)}
                for source, model in listed.items()
            ]
        }
        slices.append(entry | _parameters(tensors, None, constant))
    return slices


def _parameters(tensors: Mapping[str, _Settings], source: str | None, but: Collection[_Key] = ()) -> dict[str, Any]:
    keys = [key for key in next(iter(tensors.values())) if key.source == source and key not in but]
    values = {key.name: _filtered({name: setting[key] for name, setting in tensors.items()}) for key in keys}
    return {"parameters": values} if values else {}


def _filtered(values: Mapping[str, _Value]) -> _Value | list[dict[str, float | bool | str]]:
    """Returns one value, or mergekit's list of (substring of the tensor's name -> value), the first match applying."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    filters: dict[str, _Value] = {}
    for name, value in values.items():
        alone = (part for part in _parts(name) if {values[other] for other in values if part in other} == {value})
        filters[next(alone, name)] = value
    whole_names_last = sorted(filters, key=lambda part: (part in values, -len(part)))
    return [{"filter": part, "value": filters[part]} for part in whole_names_last]


def _parts(name: str) -> Iterator[str]:
    """Yields candidate filters for a tensor: its module, the module's parts, its name; outside layers only its name."""
    if name.startswith("."):
        yield from (name[: match.end()] for match in re.finditer(r"(?<!^)\.", name))
    yield name
