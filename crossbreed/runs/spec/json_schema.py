"""The JSON schema of a spec file, by which editors complete and check keys: `crossbreed schema`, docs/spec.schema.json.

It is what pydantic knows of the settings models, for people's files instead of parsed specs:

- A section with a `kind` is checked by the settings of that kind. Kinds, metrics and operators that are not installed
  here may be those of another package: they are let through, and `crossbreed check` knows better.
- With a `preset`, a section need not have what the preset may fill in.
- With `stages`, there is neither `space` nor `optimizer`.
- A file with `serve` and nothing that searches is a provider's (docs/api.md).
- An engine that names its own sources may be used without `sources`.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from crossbreed.fitness import ENGINES
from crossbreed.optimizer import OPTIMIZERS
from crossbreed.registry import Registry
from crossbreed.runs.spec.listing import REGISTRIES
from crossbreed.runs.spec.presets import PRESET, PRESETS
from crossbreed.runs.spec.provider import OF_A_RUN, ProvidedConfig, ProviderSpec
from crossbreed.runs.spec.spec import FitnessConfig, Spec
from crossbreed.search_spaces import SPACES

Schema: TypeAlias = dict[str, Any]

_FILLED_IN: Mapping[str, Registry[Any]] = {"space": SPACES, "optimizer": OPTIMIZERS}
"""The sections that presets fill in, and may be without a `kind`."""
_PRESET_ABOUT = "A method of the literature; its sections then hold only what differs, or are omitted."


def spec_schema(*, of_others: bool = True) -> Schema:
    """Returns the schema of a spec file.

    Args:
        of_others: Whether installed parts of other packages are described too; else only those of this one.
    """
    found = Spec.model_json_schema()
    needed = {name: found["properties"][name] for name in _FILLED_IN}
    sections = {name: _with_all(needed[name], found["$defs"], of_others) for name in _FILLED_IN}
    shared = {
        kind["$ref"].rsplit("/", 1)[-1] for section in needed.values() for kind in _kinds(section, of_others).values()
    }
    found["$defs"] = {
        name: {key: value for key, value in model.items() if key != "required" or name not in shared}
        for name, model in found["$defs"].items()
    }
    required = found["$defs"]["FitnessConfig"].pop("required")
    sections["optimizer"]["required"] = [*sections["optimizer"].get("required", ()), "budget"]
    stages = found["properties"]["stages"]["items"]
    stages["anyOf"] = stages.pop("oneOf")  # an optimizer's `kind` may be any text, of another package
    opened: Schema = _opened(found, of_others)
    opened["properties"] = {PRESET: {**_name(PRESETS, of_others), "description": _PRESET_ABOUT}, **opened["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **opened,
        "title": "A run of crossbreed, or a merge service",
        "required": [name for name in found["required"] if name != "sources"],
        "anyOf": [{"required": ["sources"]}, _names_sources(of_others)],
        "if": {"required": ["serve"], "not": {"anyOf": [{"required": [key]} for key in OF_A_RUN]}},
        "then": _provider_s(),
        "else": {
            "properties": {"fitness": {"required": required}},
            "if": {"anyOf": [{"required": [PRESET]}, {"required": ["stages"]}]},
            "else": {"required": list(_FILLED_IN), "properties": sections},
        },
    }


def _provider_s() -> Schema:
    """Returns what holds of a provider's spec besides: it has some keys of a run's, and no others."""
    of_run, of_fitness = Spec.model_fields.keys(), FitnessConfig.model_fields.keys()
    absent = dict.fromkeys(sorted(of_run - ProviderSpec.model_fields.keys() - set(OF_A_RUN)), False)
    fitness = dict.fromkeys(sorted(of_fitness - ProvidedConfig.model_fields.keys()), False)
    return {
        "required": ["sources"],
        "properties": {**absent, "fitness": {"required": ["engine"], "properties": fitness}},
    }


def _names_sources(of_others: bool) -> Schema:
    """Returns what holds where `sources` may be left out: the engine knows them by names of its own."""
    engines = list(ENGINES if of_others else ENGINES.ours)
    kinds = [kind for kind in engines if getattr(ENGINES[kind].config, "names_sources", False)]
    return {"properties": {"fitness": {"properties": {"engine": {"properties": {"kind": {"enum": kinds}}}}}}}


def _with_all(section: Schema, definitions: Mapping[str, Schema], of_others: bool) -> Schema:
    """Returns what a section needs where no preset fills it in: its kind, and what that kind requires."""
    if default := section.get("x-default"):
        whole: Schema = {"if": {"not": {"required": ["kind"]}}, "then": _kinds(section, of_others)[default]}
    else:
        whole = {"required": ["kind"]}
    required = [
        {"if": _is(name), "then": {"required": required}}
        for name, kind in _kinds(section, of_others).items()
        if (required := definitions[kind["$ref"].rsplit("/", 1)[-1]].get("required"))
    ]
    return {**whole, "allOf": required} if required else whole


def _opened(node: Any, of_others: bool) -> Any:  # any part of a JSON schema
    """Returns the schema with every choice among registered parts left open."""
    if isinstance(node, list):
        return [_opened(value, of_others) for value in node]
    if not isinstance(node, dict):
        return node
    told = {key: value for key, value in node.items() if key in ("description", "default")}
    registry = REGISTRIES.get(node.get("x-registry", ""))
    if registry is None:
        return {key: _opened(value, of_others) for key, value in node.items() if key != "x-default"}
    if "discriminator" in node:
        needs = [] if registry in _FILLED_IN.values() else ["kind"]
        return {**told, **_by_kind(_kinds(node, of_others), needs)}
    names = _name(registry, of_others)
    return {**told, **(names if "enum" in node else {"anyOf": [names, {"type": "array", "items": names}]})}


def _by_kind(kinds: Mapping[str, Schema], needs: list[str]) -> Schema:
    return {
        "type": "object",
        "required": needs,
        "properties": {"kind": _open(list(kinds))},
        "allOf": [{"if": _is(name), "then": kind} for name, kind in kinds.items()],
    }


def _is(kind: str) -> Schema:
    return {"required": ["kind"], "properties": {"kind": {"const": kind}}}


def _kinds(section: Schema, of_others: bool) -> dict[str, Schema]:
    """Returns kind -> reference to its settings."""
    mapping, ours = section["discriminator"]["mapping"], REGISTRIES[section["x-registry"]].ours
    return {name: {"$ref": place} for name, place in mapping.items() if of_others or name in ours}


def _name(registry: Registry[Any], of_others: bool) -> Schema:
    return _open(list(registry) if of_others else list(registry.ours))


def _open(names: list[str]) -> Schema:
    """Returns the schema of a name: editors offer these, and let others through."""
    return {"anyOf": [{"enum": names}, {"type": "string"}]}


def schema_text(*, of_others: bool = True) -> str:
    """Returns the schema as the command and docs/spec.schema.json have it; see `spec_schema`."""
    return json.dumps(spec_schema(of_others=of_others), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
