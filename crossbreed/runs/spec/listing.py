"""The content of `crossbreed list`: the installed parts, the packages that provide them and their settings."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from textwrap import indent
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel

from crossbreed.errors import InputError
from crossbreed.fitness import ENGINES, METRICS, TASKS, Metric
from crossbreed.optimizer import OPTIMIZERS
from crossbreed.parsing import any_of, suggestion
from crossbreed.recipes.operators import OPERATORS
from crossbreed.registry import Registry
from crossbreed.runs.spec.fields import leaves, one_line
from crossbreed.runs.spec.operator_table import parameters, takes
from crossbreed.runs.spec.presets import PRESETS, Preset
from crossbreed.search_spaces import SPACES

REGISTRIES: Mapping[str, Registry[Any]] = {
    registry.plural: registry for registry in (OPERATORS, OPTIMIZERS, SPACES, ENGINES, TASKS, METRICS, PRESETS)
}
"""Plural -> registry."""

_DOCUMENTATION: Mapping[str, Callable[[Any], str | None]] = {
    "operators": lambda part: part.spec.formula,
    "optimizers": lambda part: part.config.__doc__,
    "spaces": lambda part: part.config.__doc__,
    "engines": lambda part: part.config.__doc__,
    "tasks": lambda kind: kind.__doc__,
    "metrics": lambda metric: metric.function.__doc__,
    "presets": lambda preset: (preset.func if isinstance(preset, partial) else preset).__doc__,
}
"""Plural -> the documentation of a part. Its first line is the summary."""

_FACTS: Mapping[str, Callable[[str, Any], dict[str, Any]]] = {
    "operators": lambda name, part: {"takes": found} if (found := takes(name)) else {},
    "optimizers": lambda name, part: {"searches": part.searches.__name__.lower()} if part.searches else {},
    "engines": lambda name, part: {"takes": part.takes},
    "metrics": lambda name, metric: {
        "higher_is_better": metric.higher_is_better,
        "takes_pattern": metric.takes_pattern,
        **({"takes": found} if (found := setting_of(metric)) else {}),
    },
    "presets": lambda name, preset: _filled_in(preset),
}
"""Plural -> further facts about a part."""


def _filled_in(preset: Preset) -> dict[str, Any]:
    """What a preset makes of an empty spec, where it makes one: some read keys that every spec must have."""
    try:
        return {"fills_in": preset({})}
    except Exception:  # whatever another package's function raises
        return {}


def setting_of(metric: Metric) -> str:
    """Returns what `metric: {NAME: SETTING}` takes as the setting, in words; empty if the metric has none."""
    if metric.takes_pattern:
        return "a pattern: the task's `pattern`"
    kinds = get_args(metric.setting) or (metric.setting,)
    named = {config: f"keys {any_of(config.model_fields)}" for config in _configs(metric)}
    words = (named.get(kind, "a mapping" if get_origin(kind) is dict else "a text") for kind in kinds)
    return " or ".join(words) if metric.has_setting else ""


def _configs(metric: Metric) -> list[type[BaseModel]]:
    """Returns the settings models of a metric: of several forms of its setting, those with keys."""
    kinds = get_args(metric.setting) or (metric.setting,)
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def list_kinds() -> dict[str, Any]:
    """Returns, as JSON, the kinds of parts with how many there are of each. Imports no part."""
    kinds = [{"kind": plural, "noun": registry.noun, "count": len(registry)} for plural, registry in REGISTRIES.items()]
    return {"schema": 1, "kinds": kinds}


def list_parts(plural: str) -> dict[str, Any]:
    """Returns, as JSON, the parts of a kind, each with its package and its summary or the problem of loading it.

    Raises:
        InputError: there is no such kind.
    """
    registry = _registry(plural)
    faults = registry.faults()
    return {
        "schema": 1,
        "kind": plural,
        "parts": [
            {"name": name, "about": about(plural, name), "package": registry.package_of(name)}
            if name not in faults
            else {"name": name, "problem": faults[name].problem, "package": registry.package_of(name)}
            for name in dict.fromkeys([*registry, *faults])
        ],
    }


def describe_part(plural: str, name: str) -> dict[str, Any]:
    """Returns, as JSON, the whole documentation of a part, with its settings as in docs/spec.md.

    Raises:
        InputError: there is no such kind, or no such part.
    """
    registry = _registry(plural)
    part = registry.look_up(name, where=f"crossbreed list {plural}")
    documentation = _documentation(plural, part)
    return {
        "schema": 1,
        "kind": plural,
        "name": name,
        "about": about(plural, name),
        "package": registry.package_of(name),
        "paper": _paper(plural, part, documentation),
        "differs": part.spec.differs if plural == "operators" else "",
        "documentation": one_line(documentation),
        "facts": _FACTS[plural](name, part) if plural in _FACTS else {},
        "settings": [*_settings(plural, name, part)],
    }


def about(plural: str, name: str) -> str:
    """Returns the one-line summary of a part."""
    return _documentation(plural, REGISTRIES[plural][name]).partition("\n")[0]


def render_kinds(found: Mapping[str, Any]) -> str:
    """Returns what `list_kinds` found, for a person."""
    lines = [f"{kind['kind']:12}{kind['count']:4}" for kind in found["kinds"]]
    return "\n".join(
        [*lines, "", "`crossbreed list KIND` lists them; `crossbreed list KIND NAME` shows what one takes"]
    )


def render_list(found: Mapping[str, Any]) -> str:
    """Returns the result of `list_parts` as text."""
    width = max((len(part["name"]) for part in found["parts"]), default=0)
    lines = []
    for part in found["parts"]:
        package = "" if part["package"] == "crossbreed" else f"  [{part['package']}]"
        lines.append(f"{part['name']:{width}}  {part.get('about') or 'BROKEN: ' + part.get('problem', '')}{package}")
    return "\n".join([*lines, "", f"`crossbreed list {found['kind']} NAME` shows the settings of one of them."])


def render_part(found: Mapping[str, Any]) -> str:
    """Returns the result of `describe_part` as text."""
    lines = [f"{found['name']}, of the package {found['package']}", f"  {found['documentation']}"]
    lines += [f"  {key}: {found[key]}" for key in ("paper", "differs") if found[key]]
    lines += [f"  {name.replace('_', ' ')}: {_said(value)}" for name, value in found["facts"].items()]
    for setting in found["settings"]:
        lines += ["", f"{setting['name']}: {_takes(setting)}", *([f"  {setting['about']}"] if setting["about"] else [])]
    return "\n".join(lines)


def _paper(plural: str, part: Any, documentation: str) -> str | None:  # a part of any registry
    """Returns the paper of a part: the declared one, or else the first that its documentation names."""
    said = part.spec.paper if plural == "operators" else getattr(part, "paper", "")
    return said or next(iter(re.findall(r"arXiv \d{4}\.\d{4,5}", documentation)), None)


def _documentation(plural: str, part: Any) -> str:  # a part of any registry
    """Returns the documentation of a part without its examples."""
    return (_DOCUMENTATION[plural](part) or "").partition(">>>")[0].strip()


def _registry(plural: str) -> Registry[Any]:
    if plural not in REGISTRIES:
        raise InputError(
            f"`{plural}` is not a kind of part",
            expected=f"one of {any_of(REGISTRIES)}",
            where="crossbreed list",
            fix=suggestion(plural.lower(), REGISTRIES) or "name one of them",
        )
    return REGISTRIES[plural]


def _settings(plural: str, name: str, part: Any) -> Iterator[dict[str, Any]]:  # a part of any registry
    if plural == "operators":
        yield from map(asdict, parameters(name))
        return
    found = next(iter(_configs(part)), None) if plural == "metrics" else getattr(part, "config", None)
    if model := part if plural == "tasks" else found:
        schema = model.model_json_schema()
        yield from (asdict(field) for field in leaves(schema, schema.get("$defs", {})))


def _takes(setting: Mapping[str, Any]) -> str:
    """Returns the valid values and the default of a setting, as one phrase."""
    phrases = [setting.get(key, "") for key in ("of", "valid", "type", "range")]
    phrases.append("required" if setting["default"] is None else f"default {setting['default']}")
    phrases.append(f"searched {setting['searched']}" if setting.get("searched") else "")
    return ", ".join(phrase for phrase in phrases if phrase)


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return "\n" + indent(yaml.safe_dump(value, sort_keys=False).rstrip(), "    ")
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
