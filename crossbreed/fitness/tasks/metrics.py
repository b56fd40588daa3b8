"""Metrics: comparisons of a generated text with the gold answer."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from crossbreed.registry import Registry


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

    def __call__(self, text: str, gold: str, *pattern: re.Pattern[str]) -> bool | float:
        """Returns the value of a text."""
        return self.function(text, gold, *pattern)

    def can_match(self, gold: str) -> bool:
        """Returns whether some text can score above 0; tests the gold itself, unless the metric takes a pattern."""
        if self.takes_pattern or not self.higher_is_better:
            return gold.strip() != ""
        return self(gold, gold) > 0


_NUMBER = re.compile(r"(?:(?<!\w)-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


def exact_match(text: str, gold: str) -> bool:
    r"""The text up to the first newline, stripped, equals the stripped gold; case-sensitive.

    >>> exact_match(" 46\nQuestion:", "46")
    True
    """
    return text.split("\n", 1)[0].strip() == gold.strip() != ""


def contains(text: str, gold: str) -> bool:
    """The text contains the stripped gold; case-sensitive.

    >>> contains("It is Paris, of course.", "Paris")
    True
    """
    return gold.strip() != "" and gold.strip() in text


def number(text: str, gold: str) -> bool:
    """The last number in the text equals the last number in the gold.

    >>> number("34 + 1,200 is 1,234.0", "1234"), number("between 3-5", "5"), number("-5", "5")
    (True, True, False)
    """
    found, wanted = _NUMBER.findall(text), _NUMBER.findall(gold)
    return bool(found and wanted) and _decimal(found[-1]) == _decimal(wanted[-1])


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def regex(text: str, gold: str, pattern: re.Pattern[str]) -> bool:
    """The match of the pattern's first group, stripped, equals the stripped gold.

    >>> regex("so the answer is B.", "B", re.compile("answer is (.)"))
    True
    """
    found = pattern.search(text)
    return found is not None and (found.group(1) or "").strip() == gold.strip() != ""


EXACT_MATCH = Metric(function=exact_match)
CONTAINS = Metric(function=contains)
NUMBER = Metric(function=number)
REGEX = Metric(function=regex, takes_pattern=True)

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
