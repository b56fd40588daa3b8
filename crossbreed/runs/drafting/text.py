"""Writes a spec as a person would: short, in the order of docs/spec.md, with a comment where one may change it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from crossbreed.errors import printable
from crossbreed.fitness.tasks.guessing import Remark

_COMMENTS = {
    "seed": "the same seed and spec give the same run",
    "sources": "paths start at this file's folder",
    "space": "`crossbreed list operators`; a list of operators is searched too",
    "budget": "or `minutes: 60`, or both; raise it and run again to go on with more trials",
    "engine": "`crossbreed list engines`",
    "objectives": "several entries: a Pareto front",
    "split": "items of each task: for the search, for the choice of the winner, for the report",
}
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)


def render(raw: Mapping[str, Any], remarks: Sequence[Remark]) -> str:
    """Returns the YAML of a guessed spec; what was guessed stands at its head."""
    lines = ["# Guessed by `crossbreed init`. Every key: docs/spec.md; `crossbreed check` shows what will be asked."]
    lines += [f"#   {printable(str_of(remark))}" for remark in remarks if remark.sure != "sure"]
    return "\n".join([*lines, *_mapping(raw, 0)]) + "\n"


def str_of(remark: Remark) -> str:
    """Returns a remark in a line."""
    return " ".join(f"{remark.what} ({remark.sure}: {remark.why})".split())


def _mapping(values: Mapping[str, Any], depth: int) -> Iterator[str]:
    space = "  " * depth
    for key, value in values.items():
        comment = f"  # {_COMMENTS[key]}" if key in _COMMENTS else ""
        if isinstance(value, Mapping) and (depth == 0 or key == "experts"):
            yield f"{space}{_scalar(key)}:{comment}"
            yield from _mapping(value, depth + 1)
        elif key == "tasks":
            yield f"{space}{key}:{comment}"
            for task in value:
                inner = list(_mapping(task, depth + 2))
                yield f"{space}  - {inner[0].strip()}"
                yield from inner[1:]
        else:
            yield f"{space}{_scalar(key)}: {_flow(value)}{comment}"


def _flow(value: Any) -> str:  # any JSON value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:  # a text, a number or a boolean
    if isinstance(value, str) and _PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=not isinstance(value, str) or value != printable(value))
