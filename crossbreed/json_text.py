"""JSON that people and strangers write: one parser, with limits.

Objects of a bounded depth, no key twice, no number of thousands of digits. `Infinity` and `NaN` are not JSON, but some
models' configurations hold them and transformers reads them: they are taken as they are.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from crossbreed.parsing import unique_keys

MAX_DEPTH = 40
_MAX_DIGITS = 40
"""transformers writes 10^30 for "no limit"."""


def parse_json(
    text: str, *, max_digits: int = _MAX_DIGITS, parse_float: Callable[[str], float] | None = None
) -> Any:  # any JSON value
    """Returns the value of a JSON text.

    >>> parse_json('{"a": 1}')
    {'a': 1}

    Args:
        text: The text.
        max_digits: Of an integer.
        parse_float: Makes a value of the text of a number that is no integer.

    Raises:
        ValueError: it is none, or beyond the limits; RecursionError and MemoryError are raised as one, too.
    """
    try:
        value = json.loads(
            text, parse_int=partial(_integer, max_digits), parse_float=parse_float, object_pairs_hook=unique_keys
        )
    except (RecursionError, MemoryError):
        raise ValueError(f"objects or lists more than {MAX_DEPTH} deep") from None
    _check(value)
    return value


def _integer(max_digits: int, digits: str) -> int:
    if len(digits) > max_digits:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _check(value: Any) -> None:  # any JSON value
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = list(_inside(level))
        if not level:
            return
    raise ValueError(f"objects or lists {MAX_DEPTH} deep")


def _inside(values: Iterable[Any]) -> Iterator[Any]:
    """Yields what objects and lists hold; raises UnicodeEncodeError for a text that no file can hold."""
    for value in values:
        if isinstance(value, dict):
            yield from value
            yield from value.values()
        elif isinstance(value, list):
            yield from value
        elif isinstance(value, str):
            value.encode()
