"""How a generated text is compared with the gold answer. A new metric is a function and a line in `METRICS`."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType

_NUMBER = re.compile(r"(?:(?<!\w)-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


def exact_match(text: str, gold: str) -> bool:
    r"""Up to the first newline and stripped, the text is the stripped gold; case is kept.

    >>> exact_match(" 46\nQuestion:", "46")
    True
    """
    return text.split("\n", 1)[0].strip() == gold.strip() != ""


def contains(text: str, gold: str) -> bool:
    """The stripped gold occurs in the text; case is kept.

    >>> contains("It is Paris, of course.", "Paris")
    True
    """
    return gold.strip() != "" and gold.strip() in text


def number(text: str, gold: str) -> bool:
    """The last number of the text is the last number of the gold.

    >>> number("34 + 1,200 is 1,234.0", "1234"), number("between 3-5", "5"), number("-5", "5")
    (True, True, False)
    """
    found, wanted = _NUMBER.findall(text), _NUMBER.findall(gold)
    return bool(found and wanted) and _decimal(found[-1]) == _decimal(wanted[-1])


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def regex(text: str, gold: str, pattern: re.Pattern[str]) -> bool:
    """What the pattern's first group holds, stripped, is the stripped gold.

    >>> regex("so the answer is B.", "B", re.compile("answer is (.)"))
    True
    """
    found = pattern.search(text)
    return found is not None and (found.group(1) or "").strip() == gold.strip() != ""


METRICS: Mapping[str, Callable[[str, str], bool]] = MappingProxyType(
    {"exact_match": exact_match, "contains": contains, "number": number}
)
"""Metrics without settings."""
