"""Writes docs/spec.md from the settings models, so that the page cannot drift: python -m crossbreed.runs.spec_docs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crossbreed.runs.spec import Spec

INTRO = """# The spec

A run is one YAML file. Relative paths are relative to the file. Unknown keys are refused. `--set a.b=value` overrides
a key. This page is written by `python -m crossbreed.runs.spec_docs`.
"""


def render() -> str:
    """Returns the page: one table for each model, in the order in which a reader meets them."""
    schema = Spec.model_json_schema()
    sections = [INTRO, *_section("Spec", schema)]
    pending, seen = list(_references(schema)), {"Spec"}
    while pending:
        name = pending.pop(0)
        if name not in seen:
            seen.add(name)
            definition = schema["$defs"][name]
            sections += _section(name, definition)
            pending += _references(definition)
    return "\n".join(sections) + "\n"


def _section(name: str, definition: dict[str, Any]) -> Iterator[str]:
    if "properties" not in definition:
        return
    yield f"## {name}\n\n{_one_line(definition.get('description', ''))}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    required = definition.get("required", [])
    for key, field in definition["properties"].items():
        default = "required" if key in required else f"`{_json(field.get('default'))}`"
        yield f"| `{key}` | {_type(field)} | {default} | {_one_line(field.get('description', ''))} |"
    yield ""


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return f"[{_name(field['$ref'])}](#{_name(field['$ref']).lower()})"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if options := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(_type(option) for option in options)
    if "prefixItems" in field:
        return "[" + ", ".join(_type(item) for item in field["prefixItems"]) + "]"
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"mapping to {_type(field['additionalProperties'])}"
    return str(field.get("type", "any"))


def _references(node: Any) -> Iterator[str]:  # any part of a JSON schema
    if isinstance(node, dict):
        if "$ref" in node:
            yield _name(node["$ref"])
        for key, value in node.items():
            if key not in ("$defs", "discriminator"):
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _name(reference: str) -> str:
    return reference.rsplit("/", 1)[-1]


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _json(value: Any) -> str:  # any JSON value
    import json

    return json.dumps(value)


if __name__ == "__main__":
    Path("docs/spec.md").write_text(render())
