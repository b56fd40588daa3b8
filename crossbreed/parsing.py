"""Strict reading of mappings that people wrote: what is wrong is refused by name, with what was probably meant."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from crossbreed.errors import InputError


def require_keys(value: Any, allowed: Iterable[str], *, needed: Iterable[str] = (), where: str) -> None:
    """Raises InputError unless `value` is a mapping with all the keys that are needed and none but those allowed."""
    if not isinstance(value, Mapping):
        raise InputError(f"`{where}` is not a mapping", expected="keys and values", got=kind(value), where=where)
    for key in value:
        if key not in tuple(allowed):
            raise InputError(
                f"unknown key `{key}`",
                expected=any_of(allowed),
                got=repr(key),
                where=where,
                fix=suggestion(key, allowed),
            )
    for key in needed:
        if key not in value:
            raise InputError(f"`{key}` is missing", expected=any_of(needed), got=any_of(value), where=where)


def any_of(names: Iterable[object]) -> str:
    """Returns the names as a message lists them."""
    return ", ".join(map(str, names)) or "nothing"


def suggestion(wrong: object, right: Iterable[str]) -> str:
    """Returns the question whether the nearest of `right` was meant, or nothing where none is near."""
    close = get_close_matches(str(wrong), list(right), n=1)
    return f"did you mean `{close[0]}`?" if close else ""


def hint_at_exponent(value: object) -> str:
    """Returns how YAML wants a number of a value that it took for text, or of one in a list; else nothing.

    >>> hint_at_exponent(["1e-3", 5])
    'YAML reads 1e-3 as text: write 1.0e-3'
    >>> hint_at_exponent("1.5e3")
    'YAML reads 1.5e3 as text: write 1.5e+3'
    """
    for text in value if isinstance(value, list | tuple) else [value]:
        if isinstance(text, str) and (found := re.fullmatch(r"([+-]?\d+)(\.\d*)?(e[+-]?\d+)", text, re.IGNORECASE)):
            whole, fraction, power = found.groups()
            sign = "" if power[1] in "+-" else "+"
            return f"YAML reads {text} as text: write {whole}{fraction or '.0'}{power[0]}{sign}{power[1:]}"
    return ""


def kind(value: object) -> str:
    """Returns a value as a message shows it: with its type, for `5` and `'5'` look alike in YAML."""
    return f"{type(value).__name__} {value!r}"
