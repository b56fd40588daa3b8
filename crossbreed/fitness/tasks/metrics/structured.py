"""Metrics of texts that are to be JSON: valid, and as a schema says. They look at the text alone."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from pydantic import JsonValue

from crossbreed.config import InputPath
from crossbreed.errors import InputError, first_line
from crossbreed.fitness.tasks.metrics.metric import Metric
from crossbreed.parsing import shown, unique_keys
from crossbreed.types import canonical_json

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL | re.IGNORECASE)
_NOTHING = object()


def is_json(text: str, gold: str) -> bool:
    r"""The whole text is one JSON value, or one in a fenced block; the gold is not looked at.

    >>> is_json('{"a": [1, 2]}', ""), is_json("```json\n3\n```", ""), is_json("{'a': 1}", ""), is_json("NaN", "")
    (True, True, False, False)
    """
    return _parsed(text) is not _NOTHING


def fits_schema(text: str, gold: str, schema: "Schema") -> bool:
    """The text is JSON as `json` wants it, and valid under a JSON schema; the gold is not looked at."""
    value = _parsed(text)
    return value is not _NOTHING and bool(_validator(canonical_json(read_schema(schema))).is_valid(value))


def _parsed(text: str) -> object:
    """Returns the JSON value of a text; `_NOTHING` if it is none."""
    stripped = text.strip()
    fenced = _FENCED.fullmatch(stripped)
    try:
        return json.loads(fenced[1] if fenced else stripped, parse_constant=_no_constant, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError):  # ValueError: also an integer of thousands of digits
        return _NOTHING


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def read_schema(schema: "Schema") -> JsonValue:
    """Returns a schema that stands in a spec, or in a file.

    Raises:
        InputError: the file cannot be read.
    """
    if not isinstance(schema, str):
        return schema
    try:
        told = os.stat(schema)
        return _read(schema, told.st_mtime_ns, told.st_size)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            "the JSON schema of a metric cannot be read",
            expected="a JSON file with a schema",
            got=first_line(error),
            where=schema,
            fix="correct `json_schema` of the task's `metric`, or write the schema itself there",
        ) from None


@lru_cache(maxsize=64)
def _read(path: str, modified_ns: int, size: int) -> JsonValue:
    """Returns the content of a file, read once as long as it stays the same."""
    found: JsonValue = json.loads(Path(path).read_bytes(), parse_constant=_no_constant)
    return found


@lru_cache(maxsize=64)
def _validator(schema: str) -> "Validator":
    """Returns the validator of a schema, which reaches for nothing outside it."""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    parsed = json.loads(schema)
    made: Validator = validator_for(parsed, default=Draft202012Validator)(parsed, registry=Registry())
    return made


def check_schema(schema: "Schema") -> None:
    """Raises InputError unless it is a JSON schema whose references lead to parts of it."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    value = read_schema(schema)
    where = schema if isinstance(schema, str) else "`json_schema`"
    try:
        validator_for(value, default=Draft202012Validator).check_schema(value)
    except SchemaError as error:
        place = "/".join(map(str, error.absolute_path))
        raise InputError(
            "the JSON schema of a metric is none",
            got=first_line(error),
            where=f"{where}, at {place}" if place else where,
            fix="correct the schema",
        ) from None
    for reference in _references(value):
        if not _leads_somewhere(reference, value):
            raise InputError(
                "a reference of the JSON schema leads nowhere",
                expected="`#/$defs/NAME` or another part of the same schema: nothing is fetched",
                got=shown(reference),
                where=where,
                fix="write what it refers to into `$defs`",
            )


def _references(node: object) -> Iterator[object]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in ("$ref", "$dynamicRef", "$recursiveRef"):
                yield value
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _leads_somewhere(reference: object, schema: Any) -> bool:  # any JSON value
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    if not isinstance(reference, str):
        return True  # a property of that name
    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    try:
        Registry().with_resource("", resource).resolver_with_root(resource).lookup(reference)
    except Unresolvable:
        return False
    return True


Schema: TypeAlias = InputPath | dict[str, JsonValue]
"""A JSON schema: a file, or the schema itself."""

JSON = Metric(function=is_json, uses_gold=False)
JSON_SCHEMA = Metric(
    function=fits_schema,
    setting=Schema,
    uses_gold=False,
    needs=("jsonschema",),
    check=check_schema,
    identity=read_schema,
)
