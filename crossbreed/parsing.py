"""Strict parsing of mappings written by people: errors name the wrong key, with a suggestion."""

import re
import reprlib
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from itertools import accumulate
from typing import Any

from crossbreed.errors import Collector, InputError

_MOST_OF_A_NAME, _MOST_OF_A_LIST = 200, 260
"""Characters."""


def require_keys(value: Any, allowed: Collection[str], *, needed: Collection[str] = (), where: str = "") -> None:
    """Raises InputError unless `value` is a mapping with all needed keys and only allowed ones."""
    allowed, needed = tuple(allowed), tuple(needed)
    if not isinstance(value, Mapping):
        raise InputError(f"`{where}` is not a mapping", expected="keys and values", got=type_name(value), where=where)
    mistakes = Collector()
    for key in value:
        if key not in allowed:
            mistakes.note(unknown_key(key, allowed, where=where))
    meant = {suggestion(key, allowed) for key in value if key not in allowed}
    for key in needed:
        if key not in value and suggestion(key, [key]) not in meant:
            mistakes.note(InputError(f"`{key}` is missing", expected=any_of(needed), got=any_of(value), where=where))
    mistakes.require_none()


def unknown_key(key: object, allowed: Collection[str], *, where: str = "") -> InputError:
    """Returns the error for a key that a mapping may not have."""
    return InputError(
        f"unknown key `{str(key)[:_MOST_OF_A_NAME]}`",
        expected=f"one of {any_of(allowed)}" if allowed else "no keys",
        where=where,
        fix=suggestion(key, allowed) or (hint_at_commas(key) if isinstance(key, int) else "remove it"),
    )


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the pairs of a JSON object, for `object_pairs_hook`; JSON itself would keep the last of equal keys.

    Raises:
        ValueError: a key stands twice.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return value


def visible(name: str) -> str:
    """Returns a name for messages: in quotes if blanks at its ends would not be seen.

    >>> visible("answer"), visible("answer "), visible("")
    ('answer', "'answer '", "''")
    """
    return name if name and name == name.strip() else repr(name)


def counted(number: int, noun: str) -> str:
    """Returns a number of things.

    >>> counted(1, "item"), counted(0, "item")
    ('1 item', '0 items')
    """
    return f"{number} {noun}" + "s" * (number != 1)


def any_of(names: Iterable[object]) -> str:
    """Returns the names as a list for messages, as many as a part of a message has room for."""
    texts = [visible(str(name)[:_MOST_OF_A_NAME]) for name in names]
    ends = accumulate(len(text) + len(", ") for text in texts)
    kept = max(1, sum(end <= _MOST_OF_A_LIST for end in ends))
    more = f" and {len(texts) - kept} more" if len(texts) > kept else ""
    return (", ".join(texts[:kept]) or "nothing") + more


def suggestion(wrong: object, right: Iterable[str]) -> str:
    """Returns "did you mean ...?" with the nearest of `right`; empty if none is near."""
    if isinstance(wrong, bool):
        return hint_at_boolean(wrong)
    close = get_close_matches(str(wrong)[:_MOST_OF_A_NAME], list(right), n=1)
    return f"did you mean `{close[0]}`?" if close else ""


def hint_at_number(value: object, *, is_long: bool = False) -> str:
    """Returns how YAML wants a number of a value that it took for something else, or of one inside; else nothing.

    Args:
        value: The value.
        is_long: Whether it is a list with too many elements.

    >>> hint_at_number(["1e-3", 5])
    'YAML reads 1e-3 as text: write 1.0e-3'
    >>> hint_at_number("1.5e3")
    'YAML reads 1.5e3 as text: write 1.5e+3'
    >>> hint_at_number({"params": {"power": "1e-1"}})
    'YAML reads 1e-1 as text: write 1.0e-1'
    >>> hint_at_number("0,5")
    'a comma divides elements: write decimals after a point, as in 0.5'
    >>> hint_at_number([0, 5, 1, 5], is_long=True)
    'a comma divides elements: write decimals after a point, as in 0.5'
    """
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        are_whole = all(isinstance(part, int) and not isinstance(part, bool) for part in value)
        hint = hint_at_commas(value) if is_long and are_whole else ""
        return hint or next(filter(None, map(hint_at_number, value)), "")
    if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+,\d+", value):
        return hint_at_commas(value)
    if isinstance(value, str) and (found := re.fullmatch(r"([+-]?\d+)(\.\d*)?(e[+-]?\d+)", value, re.IGNORECASE)):
        whole, fraction, power = found.groups()
        sign = "" if power[1] in "+-" else "+"
        return f"YAML reads {value} as text: write {whole}{fraction or '.0'}{power[0]}{sign}{power[1:]}"
    return ""


def hint_at_commas(value: object) -> str:
    """Returns how decimals are written, for numbers that commas have cut; thousands are not divided at all."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+", value):
        return f"a comma divides elements: write {value.replace(',', '')}, or a decimal after a point"
    return "a comma divides elements: write decimals after a point, as in 0.5"


def hint_at_boolean(value: object) -> str:
    """Returns how YAML wants a text that it took for true or false, or one inside, as key or value; else nothing.

    >>> hint_at_boolean(["maybe", False])
    'YAML reads no, off and false without quotes as false: quote it, as in "no"'
    """
    if isinstance(value, bool):
        words, word = ("yes, on and true", "yes") if value else ("no, off and false", "no")
        return f'YAML reads {words} without quotes as {str(value).lower()}: quote it, as in "{word}"'
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    return next(filter(None, map(hint_at_boolean, value)), "") if isinstance(value, list | tuple) else ""


def type_name(value: object) -> str:
    """Returns a value with its type, for messages: `5` and `'5'` look alike in YAML."""
    return f"{type(value).__name__} {shown(value)}"


def shown(value: object) -> str:
    """Returns a value for messages, cut where it is long or deep without the whole being written first.

    >>> shown(["a" * 1000] * 1000)[:30]
    "['aaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    """
    return _SHOWN.repr(value)


def _shown() -> reprlib.Repr:
    made = reprlib.Repr()
    made.maxstring = made.maxother = 120
    made.maxlong, made.maxlevel = 60, 4
    made.maxdict = made.maxlist = made.maxtuple = made.maxset = 8
    return made


_SHOWN = _shown()
