"""Error messages for an invalid spec: every mistake with its key, its line, what was expected and a fix."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, TypeAlias

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from crossbreed.errors import Collector, InputError
from crossbreed.parsing import hint_at_boolean, hint_at_commas, hint_at_number, shown
from crossbreed.runs.spec.places import Places

Keys: TypeAlias = tuple[int | str, ...]

_MUST_BE = {
    "tuple_type": ("a list", "[...], or a line with `- ` for each element"),
    "list_type": ("a list", "[...], or a line with `- ` for each element"),
    "model_type": ("a mapping", "keys with values"),
    "dict_type": ("a mapping", "keys with values"),
}
"""Type of pydantic's error -> what the value must be, and its notation."""


def explain(
    error: ValidationError,
    raw: Mapping[str, Any],
    places: Places,
    mistakes: Collector,
    *,
    present: Collection[str] = (),
    guessed: Collection[Keys] = (),
) -> None:
    """Notes every mistake of an invalid spec, in the order of the file's lines.

    A key that is missing because it is misspelt is one mistake, and so is a value that fits no member of a union.

    Args:
        error: The errors that pydantic found.
        raw: The input of the parser.
        places: Where its keys stand.
        mistakes: Where they are noted.
        present: Top-level keys that are not missing, although `raw` lacks them.
        guessed: Keys that are not as the user wrote them: nothing is said of them and of what holds them.
    """
    by_key: dict[Keys, list[ErrorDetails]] = {}
    found = [one for one in error.errors() if one["type"] != "default_factory_not_called"]  # for want of another key
    excused = {(*one["loc"][:-1], _meant(one)) for one in found if cause_of(one)} | {(key,) for key in present}
    for one in found:
        if one["type"] != "missing" or one["loc"] not in excused:
            key = (*keys_of(one["loc"], raw), *_unread(one))
            if not any(key in (keys, keys[:-1]) for keys in guessed):
                by_key.setdefault(key, []).append(one)
    told = [(key, said) for key, several in by_key.items() for said in _explained(key, several, raw, places)]
    for _, said in sorted(told, key=lambda one: places.line(one[0]) or 0):
        mistakes.note(said)


def _explained(
    key: Keys, found: Sequence[ErrorDetails], raw: Mapping[str, Any], places: Places
) -> Iterator[InputError]:
    """Yields the mistakes at one key: each of our own, or pydantic's as one."""
    causes = [(one, cause) for one in found if (cause := cause_of(one))]
    for one, cause in causes:
        for error in cause.errors:
            yield _placed(error, (*keys_of(one["loc"], raw),), one, raw, places)
    if not causes:
        yield _of_pydantic(key, found, places)


def _placed(cause: InputError, key: Keys, found: ErrorDetails, raw: Mapping[str, Any], places: Places) -> InputError:
    """Returns an error of our own parsing with the place of its key."""
    inner = tuple(keys_of(cause.where.split("."), raw)) if cause.where else ()
    if is_unknown_key(found):  # it stands in the section that should have another
        place, key = places.of(found["loc"]), key[:-1]
    else:
        key = inner if len(inner) > len(key) or not key else key
        place = places.of(key)
    dotted = ".".join(map(str, key))
    told = f"{dotted} in {place}" if dotted else place
    if cause.where and not inner and cause.where not in told:
        told = f"{cause.where}; {told}"
    return type(cause)(cause.problem, expected=cause.expected, got=cause.got, where=told, fix=cause.fix)


def _of_pydantic(key: Keys, several: Sequence[ErrorDetails], places: Places) -> InputError:
    """Returns what pydantic found at one key, in our words."""
    found = min(several, key=lambda one: _unquoted(one) is None)  # of the members of a union, what says most
    where, dotted = places.of(key), ".".join(map(str, key))
    if found["type"] == "missing":
        by_preset = ", or a `preset` that includes it" if key in (("space",), ("optimizer",)) else ""
        return InputError(f"`{dotted}` is missing", where=where, fix=f"add it{by_preset}; see docs/spec.md")
    got = shown(found["input"])
    if (boolean := _unquoted(found)) is not None:
        word = "yes, no, on, off, true and false"
        return InputError(
            f"`{dotted}` must be a text",
            expected="text",
            got=f"{got}: YAML reads {word} without quotes as true or false",
            where=where,
            fix=f'quote it: "{"yes" if boolean else "no"}"',
        )
    if found["type"] == "string_type" and isinstance(found["input"], int | float | date):
        fix = f'quote it: "{found["input"]!s:.40}"'
        return InputError(f"`{dotted}` must be a text", expected="text", got=got, where=where, fix=fix)
    if found["type"] == "boolean":
        return InputError(
            f"`{dotted}` must be a number: {found['msg']}",
            expected="a number",
            got=got,
            where=where,
            fix="write a number",
        )
    if found["type"] in _MUST_BE:
        what, expected = _MUST_BE[found["type"]]
        fix = f"{hint}, in a list" if what == "a list" and (hint := hint_at_boolean(found["input"])) else ""
        return InputError(f"`{dotted}` must be {what}", expected=expected, got=got, where=where, fix=fix)
    if found["type"] == "too_long":
        most = found.get("ctx", {}).get("max_length")
        fix = _hint(found) or "leave out the others"
        return InputError(f"`{dotted}` has too many elements", expected=f"{most}", got=got, where=where, fix=fix)
    said = "; or ".join(dict.fromkeys(one["msg"].removeprefix("Value error, ") for one in several))
    return InputError(
        f"`{dotted}` is wrong: {said}" if dotted else said,
        got=got if dotted else "",
        where=where,
        fix=_hint(found) or "see docs/spec.md",
    )


def _hint(found: ErrorDetails) -> str:
    """Returns what YAML has made of a value that is wrong, if that is why."""
    if found["type"] == "invalid_key":  # {search: 0,2}
        return hint_at_commas(found["input"])
    return hint_at_number(found["input"], is_long=found["type"] == "too_long") or hint_at_boolean(found["input"])


def _unquoted(found: ErrorDetails) -> bool | None:
    """Returns the boolean that stands where a text is meant, as a value or as a key, if that is what is wrong."""
    is_key = found["loc"][-1:] == ("[key]",)
    meant = found["type"] == "string_type" or (found["type"] in ("literal_error", "enum") and not is_key)
    given = found["input"]
    return given if meant and isinstance(given, bool) else None


def cause_of(found: ErrorDetails) -> InputError | None:
    """Returns the InputError that one of our validators raised, if any."""
    cause = found.get("ctx", {}).get("error")
    return cause if isinstance(cause, InputError) else None


def is_unknown_key(found: ErrorDetails) -> bool:
    """Returns whether what is wrong is that no such key is known."""
    cause = cause_of(found)
    return cause is not None and cause.problem == f"unknown key `{found['loc'][-1] if found['loc'] else ''}`"


def _meant(found: ErrorDetails) -> str:
    """Returns the key that a misspelt one stands for, if that is what is wrong."""
    cause = cause_of(found)
    return cause.fix.split("`")[1] if cause and is_unknown_key(found) and "`" in cause.fix else ""


def _unread(found: ErrorDetails) -> Keys:
    """Returns the key that is missing; it does not lead to a value."""
    return found["loc"][-1:] if found["type"] == "missing" else ()


def keys_of(location: Sequence[int | str], raw: Any) -> Iterator[int | str]:  # any part of a spec
    """Yields the keys that lead to a location in the input, without those that pydantic adds for union members."""
    for part in location:
        if isinstance(raw, Sequence) and isinstance(part, str) and part.isdecimal() and not isinstance(raw, str):
            part = int(part)
        if part in raw if isinstance(raw, Mapping) else isinstance(raw, Sequence) and isinstance(part, int):
            yield part
            raw = raw[part]
