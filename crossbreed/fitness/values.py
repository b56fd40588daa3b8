"""The values of items' fields, and the text that a model is shown of one: the text that the file's author wrote.

`str` of a value is Python's notation (`None`, `True`, `['a']`, `1000.0` for `1e3`), which nobody meant.
"""

from typing import TypeAlias

from pydantic import JsonValue

from crossbreed.errors import excerpt

FieldValue: TypeAlias = JsonValue
"""The value of an item's field; in a CSV file, always text."""


class Written(float):
    """A number with its text in the file: `1e3` and `1000.0` are the same number, but not the same answer."""

    __slots__ = ("text",)
    text: str
    """Empty where the file does not tell: Parquet holds 46.0 for an integer of a column with gaps."""

    def __new__(cls, value: float, text: str) -> "Written":
        """Returns the number."""
        self = super().__new__(cls, value)
        self.text = text
        return self

    def __reduce__(self) -> tuple[type["Written"], tuple[float, str]]:
        return Written, (float(self), self.text)


def is_unicode(text: str) -> bool:
    r"""Returns whether a text can be written to a file: a lone surrogate cannot.

    >>> is_unicode("\u00e9"), is_unicode("\ud800")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_shown(value: FieldValue) -> FieldValue:
    """Returns a value in which each number whose text is not Python's own stands beside its text.

    >>> as_shown([Written(1000.0, "1e3"), Written(2.5, "2.5"), 7])
    [{'1e3': 1000.0}, 2.5, 7]
    """
    if isinstance(value, Written):
        return {value.text: float(value)} if value.text not in ("", repr(float(value))) else float(value)
    if isinstance(value, list):
        return [as_shown(inner) for inner in value]
    if isinstance(value, dict):
        return {key: as_shown(inner) for key, inner in value.items()}
    return value


def text_of(value: object, *, by_value: bool = False) -> str:
    """Returns the text of a text or a number.

    >>> text_of(46), text_of(Written(1000.0, "1e3"))
    ('46', '1e3')

    Args:
        value: The value of a field.
        by_value: Whether any notation of a number will do.

    Raises:
        ValueError: it is anything else, or how its number was written is unknown; the message says what it is.
    """
    if isinstance(value, str):
        return value
    if value is None:
        raise ValueError("null")
    if isinstance(value, bool):
        raise ValueError(f"the boolean {str(value).lower()}")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Written):
        if not value.text and not by_value:
            raise ValueError(f"the floating-point number {float(value)!r}, whose notation a Parquet file does not tell")
        return value.text or repr(float(value))
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | tuple):
        raise ValueError(f"a list: {excerpt(str(value), at_most=80)}")
    if isinstance(value, dict):
        raise ValueError(f"an object: {excerpt(str(value), at_most=80)}")
    raise ValueError(f"a {type(value).__name__}")
