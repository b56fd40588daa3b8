"""Metrics that only all items of a task together have, like BLEU: reported, and never searched."""

from collections.abc import Mapping
from typing import Any

from crossbreed.figures import Figure
from crossbreed.runs.results.numbers import number
from crossbreed.types import ItemScores


def figures_in(tasks: Mapping[str, ItemScores]) -> dict[str, Mapping[str, Figure]]:
    """Returns task -> metric -> figure, of tasks that have some."""
    return {task: scores.figures for task, scores in tasks.items() if scores.figures}


def figures_json(figures: Mapping[str, Mapping[str, Figure]]) -> dict[str, Any]:
    """Returns the documented JSON."""
    return {task: {metric: one.to_json() for metric, one in some.items()} for task, some in figures.items()}


def figure_text(figure: Figure) -> str:
    """Returns a figure with its interval: 23.4 [20.1, 26.0]."""
    if figure.value is None:
        return f"none ({figure.error})"
    if figure.low is None or figure.high is None:
        return number(figure.value)
    return f"{number(figure.value)} [{number(figure.low)}, {number(figure.high)}]"
