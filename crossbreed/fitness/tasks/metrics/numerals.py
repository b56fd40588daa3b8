"""Numbers in texts, for `metric: number`: read whole or not at all, since a part of a number is another number."""

import re
from decimal import Decimal, DecimalException, Inexact, localcontext

_MINUS = "-\u2212"
_SEPARATORS = ",'\u2019_\u00a0\u202f\u2009"
"""Between thousands: comma, apostrophes, underscore, no-break and thin spaces."""
_STRETCH = re.compile(
    rf"""
    (?P<sign>(?<![\w.)\]}}])[{_MINUS}][$\u20ac\u00a3\u00a5]?)?  # also before a currency, but not in 9-7
    (?P<body>
        \d{{4}}-\d\d-\d\d(?!\d)                          # a date
      | 0[xX][\da-fA-F]+
      | \d+[ ]\d+[ ]?/[ ]?\d+(?![\d/])                   # one and a half: 1 1/2
      | [\u00bc-\u00be\u2150-\u215e]                        # a lone half
      | (?:(?<![\w.])\.)?(?:(?<!\d)\d{{1,3}}(?:[ ]\d{{3}})+(?!\d)|\d)
        (?: \d
          | [.:{_SEPARATORS}](?=\d)
          | [ ]?/[ ]?(?=[{_MINUS}]?\d)
          | [eE][+{_MINUS}]?(?=\d)
          | (?:\^|\*\*)\{{?[{_MINUS}]?(?=\d)
          | [\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b\u00bc-\u00be\u2150-\u215e]
        )*
    )
    """,
    re.VERBOSE,
)
"""All that stands together with digits: whether it is one number is decided on the whole of it."""
_NUMBER = re.compile(
    rf"(?:(?P<lead>\d{{1,3}})(?P<groups>(?P<mark>[ {_SEPARATORS}])\d{{3}}(?:(?P=mark)\d{{3}})*)|(?P<plain>\d*))"
    rf"(?P<fraction>\.\d+)?(?:[eE](?P<power>[+{_MINUS}]?\d+))?"
)
_RATIO = re.compile(r"(?:(?P<whole>\d+) (?!0))?(?P<over>\d+) ?/ ?(?P<under>\d+)")
_LATEX = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
_DIGITS = 100
"""Fractions are compared as decimals of at most so many digits; 1/3 is none, and equals no gold."""


def last_number(text: str) -> Decimal | None:
    """Returns the last number in a text; None if there is none, or what stands there is not one number.

    >>> last_number("it is 1,234.50."), last_number("2e-05"), last_number("1/2"), last_number("version 1.2.3")
    (Decimal('1234.50'), Decimal('0.00002'), Decimal('0.5'), None)
    """
    found = list(_STRETCH.finditer(_LATEX.sub(r"\1/\2", text)))
    return _value(found[-1]) if found else None


def only_number(gold: str) -> Decimal | None:
    """Returns the one number of a gold answer, or of its part after `####`; None if it is not one whole number.

    >>> only_number("$1,200"), only_number("48 / 2 = 24 #### 24"), only_number("1/2"), only_number("10^3")
    (Decimal('1200'), Decimal('24'), None, None)
    """
    found = list(_STRETCH.finditer(gold.rpartition("####")[2]))
    return _value(found[0]) if len(found) == 1 and "/" not in found[0]["body"] else None


def _value(found: re.Match[str]) -> Decimal | None:
    body = found["body"]
    if ratio := _RATIO.fullmatch(body):
        value = _quotient(ratio["whole"] or "0", ratio["over"], ratio["under"])
    elif (number := _NUMBER.fullmatch(body)) and not (
        number["mark"] == " " and " 0" not in body
    ):  # 12 345: two numbers?
        whole = (number["lead"] or "") + (number["groups"] or "") + (number["plain"] or "")
        digits = "".join(mark for mark in whole if mark not in f" {_SEPARATORS}") + (number["fraction"] or "")
        power = (number["power"] or "0").replace("\u2212", "-")
        value = _decimal(f"{digits}e{power}")
    else:
        return None
    return value if value is None or not found["sign"] else value.copy_negate()


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except DecimalException:
        return None  # an exponent of more digits than any number has


def _quotient(whole: str, over: str, under: str) -> Decimal | None:
    with localcontext() as context:
        context.prec = _DIGITS
        context.traps[Inexact] = True
        try:
            return Decimal(whole) + Decimal(over) / Decimal(under)
        except DecimalException:
            return None
