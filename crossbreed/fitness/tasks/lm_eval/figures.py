"""What only all documents together have, like BLEU: its value, and how far it would be another on other documents."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crossbreed.errors import excerpt, first_line
from crossbreed.figures import Figure
from crossbreed.fitness.tasks.lm_eval.harness import quiet

NUM_RESAMPLES = 200
"""Fewer than of means: each is a whole aggregation, and lm-eval itself takes 100 of BLEU."""
_QUANTILES = (0.025, 0.975)


def figure_of(entries: Sequence[object], aggregation: Callable[..., Any], *, rng: np.random.Generator) -> Figure:
    """Returns what an aggregation makes of documents' entries, with its 95 % bootstrap interval over documents.

    An aggregation that fails leaves a figure without a value: what was searched is as good without it.

    Args:
        entries: What lm-eval has of each document.
        aggregation: lm-eval's, or a function of the task's author.
        rng: Draws documents.
    """
    number = len(entries)
    with quiet(), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            value = float(aggregation(list(entries)))
        except Exception as error:  # a task is somebody's code
            why = f"{type(error).__name__}: {excerpt(first_line(error), at_most=200)}"
            return Figure(value=None, low=None, high=None, num_items=number, error=why)
        drawn = rng.integers(number, size=(NUM_RESAMPLES if number > 1 else 0, number))
        spread = [_value(aggregation, [entries[place] for place in places]) for places in drawn]
    if not math.isfinite(value):
        return Figure(value=None, low=None, high=None, num_items=number, error=f"it is {value}")
    if not spread or not all(map(math.isfinite, spread)):
        return Figure(value=value, low=None, high=None, num_items=number)
    low, high = (float(bound) for bound in np.quantile(spread, _QUANTILES))
    return Figure(value=value, low=min(low, value), high=max(high, value), num_items=number)


def _value(aggregation: Callable[..., Any], entries: list[object]) -> float:
    """Returns the value of a draw; NaN where the aggregation has none, as of documents that are all of one class."""
    try:
        return float(aggregation(entries))
    except Exception:  # as above
        return math.nan
