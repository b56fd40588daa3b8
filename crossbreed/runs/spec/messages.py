"""Error messages for an invalid spec: the key, what was expected there, and a suggestion, on one screen."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from crossbreed.errors import InputError
from crossbreed.parsing import hint_at_boolean, hint_at_exponent, shown

_MUST_BE = {
    "tuple_type": ("a list", "[...], or a line with `- ` for each element"),
    "list_type": ("a list", "[...], or a line with `- ` for each element"),
    "model_type": ("a mapping", "keys with values"),
    "dict_type": ("a mapping", "keys with values"),
}
"""Type of pydantic's error -> what the value must be, and its notation."""


def explain(error: ValidationError, raw: Mapping[str, Any], *, where: str) -> InputError:
    """Returns the error to show for an invalid spec.

    Errors of our own parsing about a key or a kind come first: a misspelt key is often why another one is missing.

    Args:
        error: The errors that pydantic found.
        raw: The input of the parser.
        where: The file.
    """
    first = min(error.errors(), key=lambda found: (_cause(found) is None, _unquoted(found) is None))
    missing = first["loc"][-1:] if first["type"] == "missing" else ()
    key = ".".join(map(str, [*_keys(first["loc"], raw), *missing]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if cause := _cause(first):
        inner = cause.where if key and cause.where.startswith(f"{key}.") else "" if cause.where else key
        place = f"{inner} in {where}" if inner else cause.where or where
        return type(cause)(cause.problem + more, expected=cause.expected, got=cause.got, where=place, fix=cause.fix)
    if missing:
        by_preset = ", or a `preset` that includes it" if key in ("space", "optimizer") else ""
        fix = f"add it{by_preset}; see docs/spec.md"
        return InputError(f"`{key}` is missing{more}", where=where, fix=fix)
    got = shown(first["input"])
    if (boolean := _unquoted(first)) is not None:
        word = "yes, no, on, off, true and false"
        return InputError(
            f"`{key}` must be a text{more}",
            expected="text",
            got=f"{got}: YAML reads {word} without quotes as true or false",
            where=where,
            fix=f'quote it: "{"yes" if boolean else "no"}"',
        )
    if first["type"] == "string_type" and isinstance(first["input"], int | float | date):
        return InputError(
            f"`{key}` must be a text{more}",
            expected="text",
            got=got,
            where=where,
            fix=f'quote it: "{first["input"]!s:.40}"',
        )
    if first["type"] in _MUST_BE:
        what, expected = _MUST_BE[first["type"]]
        fix = f"{hint}, in a list" if what == "a list" and (hint := hint_at_boolean(first["input"])) else ""
        return InputError(f"`{key}` must be {what}{more}", expected=expected, got=got, where=where, fix=fix)
    said = first["msg"].removeprefix("Value error, ")
    return InputError(
        f"`{key}` is wrong: {said}{more}" if key else said + more,
        got=got if key else "",
        where=where,
        fix=hint_at_exponent(first["input"]) or hint_at_boolean(first["input"]) or "see docs/spec.md",
    )


def _unquoted(found: ErrorDetails) -> bool | None:
    """Returns the boolean that stands where a text is meant, as a value or as a key, if that is what is wrong."""
    is_key = found["loc"][-1:] == ("[key]",)
    meant = found["type"] == "string_type" or (found["type"] in ("literal_error", "enum") and not is_key)
    given = found["input"]
    return given if meant and isinstance(given, bool) else None


def _cause(found: ErrorDetails) -> InputError | None:
    """Returns the InputError that one of our validators raised, if any."""
    cause = found.get("ctx", {}).get("error")
    return cause if isinstance(cause, InputError) else None


def _keys(location: Sequence[int | str], raw: Any) -> Iterator[int | str]:  # any part of a spec
    """Yields the keys that lead to a location in the input, without those that pydantic adds for union members."""
    for part in location:
        if part in raw if isinstance(raw, Mapping) else isinstance(raw, Sequence) and isinstance(part, int):
            yield part
            raw = raw[part]
