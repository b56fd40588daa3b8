"""Metrics: comparisons of a generated text with the gold answer."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import regex as backtracking  # `re` with a clock: a pattern may take for ever on what a model happens to write

from crossbreed.errors import InputError
from crossbreed.fitness.tasks.numerals import last_number, only_number
from crossbreed.parsing import shown
from crossbreed.registry import Registry

_MOST_SECONDS = 5
_OTHERWISE_READ = re.compile(r"(?<!\\)(?:\\\\)*(\{[\d\s,<=+]*[idse]\s*[<,:}+][^}]*\}?|\[:\^?\w+:\])")
"""What `regex` reads otherwise than `re`: fuzzy matches `(foo){e<=1}`, and classes `[[:alpha:]]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Compares a generated text with the gold answer.

    >>> METRICS["contains"]("It is Paris, of course.", "Paris")
    True
    """

    function: Callable[..., bool | float]
    """Takes the text, the gold and, if `takes_pattern`, a compiled pattern. Its docstring describes the metric."""
    higher_is_better: bool = True
    """Whether larger values are better."""
    takes_pattern: bool = False
    """Whether it needs the task's `pattern`, a regular expression with a group."""
    needs_gold: bool = False
    """Whether a text without the gold in it scores 0: a gold that is cut by a stop or `max_tokens` is then refused."""
    by_value: bool = False
    """Whether it compares values, so that any notation of a number in the gold will do."""

    def __call__(self, text: str, gold: str, *pattern: re.Pattern[str]) -> bool | float:
        """Returns the value of a text."""
        return self.function(text, gold, *pattern)

    def can_match(self, gold: str) -> bool:
        """Returns whether some text can score above 0; tests the gold itself, unless the metric takes a pattern."""
        if self.takes_pattern or not self.higher_is_better:
            return gold.strip() != ""
        return self(gold, gold) > 0


def exact_match(text: str, gold: str) -> bool:
    r"""The text up to the first newline, stripped, equals the stripped gold; case-sensitive.

    >>> exact_match(" 46\nQuestion:", "46")
    True
    """
    return _folded(text.split("\n", 1)[0]) == _folded(gold) != ""


def contains(text: str, gold: str) -> bool:
    """The text contains the stripped gold; case-sensitive.

    >>> contains("It is Paris, of course.", "Paris")
    True
    """
    return _folded(gold) != "" and _folded(gold) in _folded(text)


def number(text: str, gold: str) -> bool:
    """The last number in the text equals the one number of the gold, in any notation: 1,200, 1.2e3, 2400/2.

    >>> number("34 + 1,200 is 1,234.0", "1234"), number("between 3-5", "5"), number("-5", "5")
    (True, True, False)
    """
    wanted = only_number(gold)
    return wanted is not None and last_number(text) == wanted


def regex(text: str, gold: str, pattern: re.Pattern[str]) -> bool:
    """The match of the pattern's first group, stripped, equals the stripped gold.

    >>> regex("so the answer is B.", "B", re.compile("answer is (.)"))
    True
    """
    normal = unicodedata.normalize("NFC", text)
    try:
        found = backtracking.search(pattern.pattern, normal, flags=pattern.flags & re.DOTALL, timeout=_MOST_SECONDS)
    except TimeoutError:
        raise InputError(
            f"`pattern` takes more than {_MOST_SECONDS} s for one answer",
            expected="a pattern without a repeat inside a repeat, such as (a+)+",
            got=f"{shown(pattern.pattern)}, on {shown(text)}",
            fix="write it so that one text can match in one way only; a new run is needed",
        ) from None
    return found is not None and _folded(found.group(1) or "") == _folded(gold) != ""


def check_pattern(pattern: str) -> None:
    """Checks a pattern: one of Python's `re`, with a group, that means the same to the library that matches it.

    Raises:
        ValueError: it is none; the message says why.
    """
    if found := _OTHERWISE_READ.search(pattern):
        raise ValueError(
            f"`pattern` holds {found[1]!r}, which is no syntax of Python's `re`: for these very characters, "
            f"write {chr(92)}{found[1]}"
        )
    try:
        groups = re.compile(pattern).groups
        backtracking.compile(pattern)
    except (re.error, backtracking.error, OverflowError, RecursionError) as error:
        raise ValueError(f"`pattern` is not a regular expression: {error}") from None
    if groups < 1:
        raise ValueError(f"`pattern` has no group, put (...) around the answer: {pattern!r}")


def _folded(text: str) -> str:
    """Returns a text stripped and in Unicode's normal form C: é is one character, or an e and an accent."""
    return unicodedata.normalize("NFC", text).strip()


EXACT_MATCH = Metric(function=exact_match, needs_gold=True)
CONTAINS = Metric(function=contains, needs_gold=True)
NUMBER = Metric(function=number, by_value=True)
REGEX = Metric(function=regex, takes_pattern=True, needs_gold=True)

METRICS = Registry[Metric](
    "metric",
    "crossbreed.metrics",
    {
        "exact_match": f"{__name__}:EXACT_MATCH",
        "contains": f"{__name__}:CONTAINS",
        "number": f"{__name__}:NUMBER",
        "regex": f"{__name__}:REGEX",
    },
    part=Metric,
)
"""Name -> metric."""
