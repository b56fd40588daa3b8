"""Writes docs/spec.md from the settings models and the operators' declarations, so that the page cannot drift.

python -m crossbreed.runs.spec_docs
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crossbreed.operators import DEPTH_PROFILE, OPERATOR_SPECS, OperatorSpec, ParamKind, ParamSpec
from crossbreed.runs.presets import PRESETS
from crossbreed.runs.spec import Spec
from crossbreed.search_spaces.layout import Layout

INTRO = """# The spec

A run is one YAML file. Relative paths are relative to the file. Unknown keys are refused. `--set a.b=value` overrides
a key. This page is written by `python -m crossbreed.runs.spec_docs`.

`preset: NAME` fills in `space` and `optimizer` with a method of the literature; what the file says itself wins, field
by field, and a section of another `kind` is the file's alone. The presets:
"""
OPERATORS = """## Operators

What `operator` of a space, or of a rule of a [recipe](recipe.md), may be, and what its `params` may name. W0 is
the base, Wi an expert, di = Wi - W0.

*Searched* is what a space does that says nothing of a parameter: a range, each expert having a value of its own where
the parameter is of experts; *by ratio*: its logarithm is what is stepped along; *shares*: the weights are parts of a
whole, since only their ratios count; *by the weights*: they say as much; *say it in `params`*: a space has no value of
its own for it, and is refused without one; a value: what it is set to; nothing: it keeps its default.
"""


def render() -> str:
    """Returns the page: one table for each model, in the order in which a reader meets them."""
    schema = Spec.model_json_schema()
    schema = _with_choices(schema, schema["$defs"])
    schema["properties"] = {"preset": _PRESET, **schema["properties"]}
    sections = [INTRO, *map(_preset, PRESETS), "", *_section("Spec", schema)]
    pending, seen = list(_references(schema)), {"Spec"}
    while pending:
        name = pending.pop(0)
        if name not in seen:
            seen.add(name)
            definition = schema["$defs"][name]
            sections += _section(name, definition)
            pending += _references(definition)
    sections.append(OPERATORS)
    for spec in OPERATOR_SPECS.values():
        sections += _operator(spec)
    profile = (f"`{param.name}` ({param.default:g}): {param.about}" for param in DEPTH_PROFILE)
    sections += ["Every operator has two parameters more, which are not searched unless `params` has a range:", ""]
    sections += [f"- {line}" for line in profile]
    return "\n".join(sections) + "\n"


_PRESET = {
    "enum": list(PRESETS),
    "description": "One of the methods above; then `space` and `optimizer` are left out, or say what differs.",
}
"""The one key that is gone when the settings are parsed."""


def _preset(name: str) -> str:
    filled = PRESETS[name]({})
    return f"- `{name}`: {(PRESETS[name].__doc__ or '').splitlines()[0]} `{_json(filled)}`"


def _operator(spec: OperatorSpec) -> Iterator[str]:
    own = [param for param in spec.params if param not in DEPTH_PROFILE]
    low, high = spec.num_experts
    takes = "" if (low, high) == (0, None) else f" Takes {spec.fault(-1)} expert{'s' * ((high or low) > 1)}."
    yield f"### {spec.name}\n\n`{spec.formula}`.{takes}\n"
    yield "| parameter | of | default | searched | meaning |\n|---|---|---|---|---|"
    layout = Layout.of(spec.name, {})
    for param in own:
        of = " or ".join(f"`{option}`" for option in param.options) or _OF[param.kind]
        default = "required" if param.required else f"`{_json(param.default)}`"
        yield f"| `{param.name}` | {of} | {default} | {_searched(param, layout)} | {_one_line(param.about)} |"
    yield ""


_OF = {
    ParamKind.EXPERT: "each expert",
    ParamKind.SOURCE: "each source",
    ParamKind.SCALAR: "the group",
    ParamKind.FLAG: "true or false",
    ParamKind.NAME: "a source's name",
}


def _searched(param: ParamSpec, layout: Layout) -> str:
    if param.name in layout.missing:
        return "say it in `params`"
    if param.name == "weight" and layout.by_shares:
        return "shares"
    if param.when and layout.why_idle(param.name):
        return f"with `{param.when[0]}: {param.when[1]}`"
    if (axis := layout.axes.get(param.name)) is None:
        fixed = layout.fixed.get(param.name)
        return f"`{_json(fixed)}`" if fixed is not None else "by the weights" if param.search else ""
    ways = ["by ratio"] if param.by_ratio else []
    ways += [f"in steps of 1/{param.grid}"] if param.grid else []
    ways += [f"as a fraction of its limit ({param.limit.about})"] if param.limit else []
    return ", ".join([f"{axis.low:g} to {axis.high:g}", *ways])


def _section(name: str, definition: dict[str, Any]) -> Iterator[str]:
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
    return str(field.get("type", "any value"))


def _with_choices(node: Any, definitions: dict[str, Any]) -> Any:  # any part of a JSON schema
    """Returns the schema with what is no model, and so has no section to link to, put where it is referred to."""
    if isinstance(node, list):
        return [_with_choices(value, definitions) for value in node]
    if not isinstance(node, dict):
        return node
    inner = {key: _with_choices(value, definitions) for key, value in node.items()}
    if "$ref" not in inner or "properties" in (definition := definitions[_name(inner["$ref"])]):
        return inner
    return {**definition, **{key: value for key, value in inner.items() if key != "$ref"}}


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
