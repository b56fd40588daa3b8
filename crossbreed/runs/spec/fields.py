"""Describes settings field by field, from their JSON schema: for docs/spec.md and for `crossbreed list`."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]
"""A JSON schema, or a part of one."""

_BOUNDS = {
    "exclusiveMinimum": "greater than {}",
    "minimum": "at least {}",
    "exclusiveMaximum": "less than {}",
    "maximum": "at most {}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """The description of a settings field."""

    name: str
    type: str
    range: str
    """The valid values of the type; empty if all are."""
    default: str | None
    """The default as JSON; None if the field is required."""
    about: str
    """The field's docstring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The formatting of types."""

    value: Callable[[object], str] = str
    """Formats a literal value."""
    model: Callable[[str], str] = str
    """Formats the name of a settings model."""
    part: Callable[[str], str] = "one of `crossbreed list {}`".format
    """Formats the type of a field that holds the name of a registered part, from the registry's plural."""


PLAIN = Style()


def fields(schema: Schema, definitions: Schema, *, style: Style = PLAIN) -> Iterator[Field]:
    """Yields the fields of a model, in the order of their declaration."""
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        field = _resolved(field, definitions)
        yield Field(
            name=name,
            type=_type(field, definitions, style),
            range=_range(field, definitions),
            default=None if name in required else json.dumps(field.get("default")),
            about=one_line(field.get("description", "")),
        )


def leaves(schema: Schema, definitions: Schema, *, prefix: str = "") -> Iterator[Field]:
    """Yields the fields of a model and of its nested models, under the dotted names that `--set` takes."""
    for field in fields(schema, definitions):
        name, inner = f"{prefix}{field.name}", schema["properties"][field.name]
        if "$ref" in inner and "properties" in (model := definitions[model_name(inner["$ref"])]):
            yield from leaves(model, definitions, prefix=f"{name}.")
        else:
            yield Field(name=name, type=field.type, range=field.range, default=field.default, about=field.about)


def model_name(reference: str) -> str:
    """Returns the name of the model that a `$ref` refers to."""
    return reference.rsplit("/", 1)[-1]


def one_line(text: str) -> str:
    """Returns a docstring as one line."""
    return " ".join(text.split())


def _resolved(field: Schema, definitions: Schema) -> Schema:
    """Returns the field with a reference resolved, unless it is to a model, which has a section of its own."""
    if "$ref" not in field or "properties" in (definition := definitions[model_name(field["$ref"])]):
        return field
    return {**definition, **{key: value for key, value in field.items() if key != "$ref"}}


def _type(field: Schema, definitions: Schema, style: Style) -> str:
    def inner(part: Schema) -> str:
        return _type(_resolved(part, definitions), definitions, style)

    if "$ref" in field:
        return style.model(model_name(field["$ref"]))
    if "const" in field:
        return style.value(field["const"])
    if "x-registry" in field and "enum" in field:
        return style.part(field["x-registry"])
    if "enum" in field:
        return " or ".join(map(style.value, field["enum"]))
    if options := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(map(inner, options))
    if "prefixItems" in field:
        return "[" + ", ".join(map(inner, field["prefixItems"])) + "]"
    if field.get("type") == "array":
        return f"list of {inner(field.get('items', {}))}"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"mapping to {inner(field['additionalProperties'])}"
    return str(field.get("type", "any value"))


def _range(field: Schema, definitions: Schema) -> str:
    parts = [_resolved(part, definitions) for part in field.get("anyOf", ())]
    ranges = {_type(part, definitions, PLAIN): said for part in parts if (said := _range(part, definitions))}
    if ranges:
        return " or ".join([f"{kind} {said}" for kind, said in ranges.items()] if len(ranges) > 1 else ranges.values())
    bounds = [words.format(f"{field[key]:g}") for key, words in _BOUNDS.items() if key in field]
    if "prefixItems" not in field and (field.get("minItems") or field.get("minLength") or field.get("minProperties")):
        bounds.append("not empty")
    items = _range(_resolved(field["items"], definitions), definitions) if "items" in field else ""
    return " and ".join([*bounds, *([f"each {items}"] if items else [])])
