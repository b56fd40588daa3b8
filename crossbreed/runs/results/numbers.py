"""Numbers and names as reports, cards and pages show them."""

from crossbreed.runs.results.statistics import Interval
from crossbreed.runs.results.winner import TUNED_SCALAR


def number(value: float) -> str:
    """Returns a score with three decimals, or with four digits if it is large.

    >>> number(0.78125), number(1234.5), number(-0.0001)
    ('0.781', '1234', '0.000')
    """
    return f"{round(value, 3) + 0.0:.3f}" if abs(value) < 10 else f"{value:.4g}"  # -0.0 + 0.0 is 0.0


def with_interval(found: Interval, *, signed: bool = False) -> str:
    """Returns `0.781 [0.752, 0.809]`, with signs for a difference; `0.781 [not known]` without bounds."""
    mean, low, high = (("+" if signed and v > 0 else "") + number(v) for v in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]" if found.is_known else f"{mean} [not known]"


def row_label(name: str) -> str:
    """Returns the displayed name of a row."""
    return name.replace("_", " ") if name == TUNED_SCALAR else name
