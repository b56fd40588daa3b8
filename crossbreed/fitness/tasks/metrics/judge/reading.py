"""Finds the verdict in what a judge has written. What may be read in two ways is no verdict: it is not guessed."""

import json
import re
from collections.abc import Iterator

from crossbreed.errors import excerpt
from crossbreed.fitness.tasks.metrics.plain import searched
from crossbreed.parsing import unique_keys

_YES, _NO = ("yes", "true"), ("no", "false")
_BEGINS = r"\A[\s*_#\"'`(\[]*({})(?=[\s*_\"'`)\]]*(?:[.,;:!\n\u2013\u2014]|-\s|\Z))"
"""A verdict that comes first, and is not the beginning of a phrase: `Yes, because ...`, but not `No doubt`."""
_ENDS = r"(?:\A|[\s*_\"'`(\[:=])({})[\s*_\"'`)\].!]*\Z"
"""One that comes last: `... so the answer is **yes**.`"""
_WORD, _NUMBER = "yes|no", r"[-\u2212]?\d+(?:\.\d+)?"
_MARKED = re.compile(rf"\[\[\s*({_NUMBER})\s*\]\]")
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
_MOST_SHOWN = 120


class NoVerdict(ValueError):
    """There is no verdict in a text; the message says why."""


def verdict_in(
    text: str, *, scale: tuple[float, float] | None, pattern: re.Pattern[str] | None, key: str | None
) -> float:
    """Returns the verdict of a judge's text: from 0 to 1.

    >>> verdict_in("Yes, it is.", scale=None, pattern=None, key=None)
    1.0
    >>> verdict_in("Clear, but long. Rating: 7/10", scale=(0, 10), pattern=None, key=None)
    0.7

    Args:
        text: What the judge has written.
        scale: The lowest and the highest mark; None: yes or no.
        pattern: Its first group is the verdict. None: it comes first or last.
        key: The verdict's in the JSON object that the judge has written.

    Raises:
        NoVerdict: there is none, or the text has two.
    """
    if key is not None:
        found = {str(_at(key, text)).strip().casefold()}
    elif pattern is not None:
        match = searched(text, pattern)
        found = {match.group(1).strip().casefold()} if match is not None and match.group(1) is not None else set()
    else:
        found = set(_words(text) if scale is None else _marks(text, scale[1]))
    if len(found) != 1:
        raise NoVerdict(f"{'two verdicts' if found else 'no verdict'} in {excerpt(repr(text), at_most=_MOST_SHOWN)}")
    [said] = found
    return _yes_or_no(said) if scale is None else _on_scale(said, *scale)


def _words(text: str) -> Iterator[str]:
    yield from (found[1].casefold() for found in _ends_of(text, _WORD))


def _marks(text: str, highest: float) -> Iterator[str]:
    """Yields the marks in a text, each as a number is written: `[[7]]` alone, else `7/10`, else first and last."""
    of_highest = re.compile(rf"({_NUMBER})\s*(?:/|out of)\s*{re.escape(f'{highest:g}')}(?![\d.]*\d)")
    for pattern in (_MARKED, of_highest):
        if found := pattern.findall(text):
            yield from map(_plain, found)
            return
    yield from (_plain(found[1]) for found in _ends_of(text, _NUMBER))


def _ends_of(text: str, what: str) -> Iterator[re.Match[str]]:
    for frame in (_BEGINS, _ENDS):
        if found := re.search(frame.format(what), text, re.IGNORECASE):
            yield found


def _plain(number: str) -> str:
    return repr(float(number.replace("\u2212", "-")))


def _at(key: str, text: str) -> object:
    """Returns what stands under a key of the one JSON object in a text."""
    found = _OBJECT.search(text)
    try:
        value = json.loads(found[0], object_pairs_hook=unique_keys) if found else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or isinstance(value.get(key), dict | list | None):
        raise NoVerdict(f"no JSON object with a verdict at `{key}` in {excerpt(repr(text), at_most=_MOST_SHOWN)}")
    return value[key]


def _yes_or_no(said: str) -> float:
    if said in _YES or said in _NO:
        return float(said in _YES)
    raise NoVerdict(f"{excerpt(repr(said), at_most=_MOST_SHOWN)} is neither yes nor no")


def _on_scale(said: str, low: float, high: float) -> float:
    try:
        mark = float(said.replace("\u2212", "-"))
    except ValueError:
        raise NoVerdict(f"{excerpt(repr(said), at_most=_MOST_SHOWN)} is no number") from None
    if not low <= mark <= high:
        raise NoVerdict(f"the mark {mark:g} is not between {low:g} and {high:g}")
    return (mark - low) / (high - low)
