"""Regular expressions of recipes and adapters, matched in linear time whatever a stranger wrote.

The dialect is that of Rust's regex crate, RE2's family, through pydantic's own engine: no look-around and no
back-references, which are what makes matching take for ever. `re` stays for our own constant patterns.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from pydantic_core import SchemaError, SchemaValidator, core_schema

Matcher: TypeAlias = Callable[[str], bool]
"""Tells whether a text matches."""
MAX_CHARACTERS = 4 << 20
"""Names of all tensors of the largest models, each as an alternative."""
_MOST_KEPT = 4096
"""Characters of a pattern that is compiled once for all who ask."""


def full_matcher(pattern: str) -> Matcher:
    r"""Returns the function that tells whether a whole text matches.

    >>> [full_matcher(r"model\.\d+\..*")(name) for name in ("model.7.mlp", "a.model.7.mlp")]
    [True, False]

    Raises:
        ValueError: it is no pattern of the dialect, or larger than any that a recipe needs.
    """
    return _compiler(pattern)(pattern, r"\A(?:", r")\z")


def part_matcher(pattern: str) -> Matcher:
    """Returns the function that tells whether a part of a text matches; raises as `full_matcher`."""
    return _compiler(pattern)(pattern, "", "")


def _compiler(pattern: str) -> Callable[[str, str, str], Matcher]:
    """Returns what compiles a pattern: a stranger's long ones, which take megabytes, are not kept."""
    return _compiled if not isinstance(pattern, str) or len(pattern) <= _MOST_KEPT else _compiled.__wrapped__


@lru_cache(maxsize=1024)
def _compiled(pattern: str, before: str, behind: str) -> Matcher:
    if not isinstance(pattern, str):
        raise ValueError(f"{type(pattern).__name__} is no text")
    if len(pattern) > MAX_CHARACTERS:
        raise ValueError(f"{len(pattern):,} characters")
    try:
        alone = SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
        if before or behind:  # only now: `a)|(b` is a pattern nowhere but inside our brackets
            whole = before + pattern + behind
            return SchemaValidator(core_schema.str_schema(pattern=whole, regex_engine="rust-regex")).isinstance_python
    except (SchemaError, UnicodeEncodeError) as error:  # a lone surrogate is no text
        raise ValueError(_reason(error)) from None
    return alone.isinstance_python


def _reason(error: Exception) -> str:
    """Returns the line of the engine's message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1]).removeprefix("error: ")
