"""Which of lm-eval's metrics have a value for each document, so that a search can follow their mean."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat

_PROBES = ((0.0, 1.0, 1.0, 0.25), (3.0, -1.5, 0.5), (2.0,))
"""An aggregation that is the mean of all of them is taken for a mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a metric's entry for one document becomes a number."""

    read: Callable[[Any], float]
    higher_is_better: bool
    about: str = ""
    """What the value is, where it is not the metric itself."""
    unit: str = ""
    """Of documents' sizes, where they weigh: values are then divided by the mean size, so that the mean of all is
    lm-eval's weighted one."""

    def size_of(self, entry: Any) -> float:
        """Returns a document's size, of what lm-eval has of it; 1 where sizes do not weigh."""
        return float(entry[1]) if self.unit else 1.0


def reading_of(name: str, entry: object, aggregation: Callable[..., Any], *, higher_is_better: bool) -> Reading | None:
    """Returns how a metric is read of one document; None where only all documents together have a value.

    Args:
        name: The metric.
        entry: What lm-eval has of it for some document.
        aggregation: What lm-eval makes of all documents' entries.
        higher_is_better: As lm-eval says.
    """
    from lm_eval.api import metrics

    if aggregation is metrics.weighted_perplexity:
        unit = "word" if name.startswith("word") else "byte" if name.startswith("byte") else "unit"
        return Reading(read=_nats, higher_is_better=False, about="nats", unit=unit)
    if aggregation is metrics.bits_per_byte:
        return Reading(read=_bits, higher_is_better=False, about="bits", unit="byte")
    if aggregation is metrics.perplexity:
        return Reading(read=_negative, higher_is_better=False, about="nats")
    if aggregation is metrics.brier_score:
        return Reading(read=lambda one: float(metrics.brier_score([one])), higher_is_better=False)
    if is_number(entry) and _is_mean(aggregation):
        return Reading(read=float, higher_is_better=higher_is_better)
    return None


def readings_of(results: Mapping[str, object], task: Any) -> dict[str, Reading | None]:
    """Returns metric -> how it is read, for all that a task has told of a document.

    Args:
        results: What the task's `process_results` has returned for the document.
        task: The task.
    """
    better = task.higher_is_better()
    return {
        name: reading_of(name, entry, aggregation_of(name, task), higher_is_better=better.get(name, True) is not False)
        for name, entry in results.items()
    }


def aggregation_of(name: str, task: Any) -> Callable[..., Any]:
    """Returns what lm-eval makes of all documents' entries for a metric."""
    from lm_eval.api import metrics

    found: Callable[..., Any] = task.aggregation().get(name, metrics.mean)
    return found


def is_number(entry: object) -> bool:
    """Returns whether an entry is one number, of any type."""
    if isinstance(entry, str | bytes) or not isinstance(entry, SupportsFloat):
        return False
    try:
        float(entry)
    except (TypeError, ValueError, OverflowError):  # an array of several
        return False
    return True


def _is_mean(aggregation: Callable[..., Any]) -> bool:
    """Returns whether an aggregation does what a mean does: it may be a function of the user's."""
    try:
        return all(math.isclose(float(aggregation(list(one))), math.fsum(one) / len(one)) for one in _PROBES)
    except Exception:  # a function that takes something else than numbers
        return False


def _nats(entry: tuple[float, float]) -> float:
    return -float(entry[0])


def _bits(entry: tuple[float, float]) -> float:
    return _nats(entry) / math.log(2)


def _negative(entry: float) -> float:
    return -float(entry)
