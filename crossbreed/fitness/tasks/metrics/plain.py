"""Metrics that find an answer in a text and compare it with the gold: right or wrong."""

import re
from collections.abc import Hashable

import regex as backtracking  # `re` with a clock: a pattern may take for ever on what a model happens to write

from crossbreed.errors import InputError
from crossbreed.fitness.tasks.metrics.letters import only_letter, stated_letter
from crossbreed.fitness.tasks.metrics.metric import Metric
from crossbreed.fitness.tasks.metrics.numerals import last_number, only_number
from crossbreed.fitness.tasks.metrics.words import folded, normal
from crossbreed.parsing import shown

_MOST_SECONDS = 5
_OTHERWISE_READ = re.compile(r"(?<!\\)(?:\\\\)*(\{[\d\s,<=+]*[idse]\s*[<,:}+][^}]*\}?|\[:\^?\w+:\])")
"""What `regex` reads otherwise than `re`: fuzzy matches `(foo){e<=1}`, and classes `[[:alpha:]]`."""


def exact_match(text: str, gold: str) -> bool:
    r"""The text up to the first newline, stripped, equals the stripped gold; case-sensitive.

    >>> exact_match(" 46\nQuestion:", "46")
    True
    """
    return _first_line(text) == folded(gold) != ""


def contains(text: str, gold: str) -> bool:
    """The text contains the stripped gold; case-sensitive.

    >>> contains("It is Paris, of course.", "Paris")
    True
    """
    return folded(gold) != "" and folded(gold) in folded(text)


def number(text: str, gold: str) -> bool:
    """The last number in the text equals the one number of the gold, in any notation: 1,200, 1.2e3, 2400/2.

    >>> number("34 + 1,200 is 1,234.0", "1234"), number("between 3-5", "5"), number("-5", "5")
    (True, True, False)
    """
    wanted = only_number(gold)
    return wanted is not None and last_number(text) == wanted


def choice_letter(text: str, gold: str) -> bool:
    """The letter of the option that the text chooses is the gold's: `B`, `(B) Paris`, `The answer is B`.

    >>> choice_letter("A dog is an animal, so the answer is **B**.", "B"), choice_letter("A or B", "B")
    (True, False)
    """
    wanted = only_letter(gold)
    return wanted is not None and stated_letter(text) == wanted


def regex(text: str, gold: str, pattern: re.Pattern[str]) -> bool:
    """The match of the pattern's first group, stripped, equals the stripped gold.

    >>> regex("so the answer is B.", "B", re.compile("answer is (.)"))
    True
    """
    return _first_group(text, pattern) == folded(gold) != ""


def searched(text: str, pattern: re.Pattern[str]) -> "backtracking.Match[str] | None":
    """Returns the first match of a user's pattern in a text.

    Raises:
        InputError: it takes too long.
    """
    try:
        return backtracking.search(
            pattern.pattern, normal(text), flags=pattern.flags & re.DOTALL, timeout=_MOST_SECONDS
        )
    except TimeoutError:
        raise InputError(
            f"`pattern` takes more than {_MOST_SECONDS} s for one answer",
            expected="a pattern without a repeat inside a repeat, such as (a+)+",
            got=f"{shown(pattern.pattern)}, on {shown(text)}",
            fix="write it so that one text can match in one way only; a new run is needed",
        ) from None


def check_pattern(pattern: str, *, key: str = "pattern", has_group: bool = True) -> None:
    """Checks a pattern: one of Python's `re` that means the same to the library that matches it.

    Args:
        pattern: The pattern.
        key: What it is called in a spec, for messages.
        has_group: Whether it needs a group.

    Raises:
        ValueError: it is none; the message says why.
    """
    if found := _OTHERWISE_READ.search(pattern):
        raise ValueError(
            f"`{key}` holds {found[1]!r}, which is no syntax of Python's `re`: for these very characters, "
            f"write {chr(92)}{found[1]}"
        )
    try:
        groups = re.compile(pattern).groups
        backtracking.compile(pattern)
    except (re.error, backtracking.error, OverflowError, RecursionError) as error:
        raise ValueError(f"`{key}` is not a regular expression: {error}") from None
    if has_group and groups < 1:
        raise ValueError(f"`{key}` has no group, put (...) around the answer: {pattern!r}")


def _first_line(text: str) -> str:
    return folded(text.split("\n", 1)[0])


def _first_group(text: str, pattern: re.Pattern[str]) -> str | None:
    found = searched(text, pattern)
    return None if found is None else folded(found.group(1) or "")


def _vote_of_line(text: str) -> Hashable:
    return _first_line(text) or None


def _vote_of_group(text: str, pattern: re.Pattern[str]) -> Hashable:
    return _first_group(text, pattern) or None


EXACT_MATCH = Metric(function=exact_match, needs_gold=True, key=_vote_of_line)
CONTAINS = Metric(function=contains, needs_gold=True)
NUMBER = Metric(function=number, by_value=True, key=last_number)
CHOICE_LETTER = Metric(function=choice_letter, key=stated_letter)
REGEX = Metric(function=regex, takes_pattern=True, needs_gold=True, key=_vote_of_group)
