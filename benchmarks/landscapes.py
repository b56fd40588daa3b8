"""Landscapes to compare searches on without a model: three that are made up, and the recorded trials of a run.

Each has a true value at every point, which is a share of right answers, and a measured one, of a limited number of
items: luck is a function of seed and trial, and does not depend on the search.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.types import Box, Point

ITEMS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """Something to maximise."""

    box: Box
    start: Point
    value: Callable[[Point], float]
    """The true value, between 0 and 1."""
    best: float
    """The largest true value that is known."""

    def measured(self, point: Point, *, seed: int, number: int) -> float:
        """Returns the share of items that are right."""
        share = min(1.0, max(0.0, self.value(point)))
        return float(np.random.default_rng((seed, number)).binomial(ITEMS, share)) / ITEMS


def made_up(dim: int, value: Callable[[Point], float], best: float) -> Landscape:
    box = Box(low=(-0.5,) * dim, high=(1.5,) * dim)
    return Landscape(box=box, start=(1 / 3,) * dim, value=value, best=best)


def bowl(point: Point) -> float:
    """One smooth optimum."""
    away = np.array(point) - np.linspace(0.2, 1.1, len(point))
    return 0.9 * float(np.exp(-away @ away))


def ridge(point: Point) -> float:
    """One optimum in a narrow valley that is along no axis: the first half of the turned coordinates counts tenfold."""
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(len(point), len(point))))
    away = turn @ (np.array(point) - 0.6)
    scales = np.where(np.arange(len(point)) < len(point) // 2, 2.0, 0.2)
    return 0.9 * float(np.exp(-(scales * away) @ away))


def skills(point: Point) -> float:
    """The mean of three skills, each with an optimum of its own and nothing to be seen far from it."""
    own = np.array([[1.1, 0.2, 0.1], [0.1, 1.0, 0.3], [0.3, 0.2, 1.1]])
    away = (np.array(point).reshape(-1, 3)[:, None, :] - own[None]) ** 2
    return float((1 / (1 + np.exp(8 * away.mean(axis=0).sum(axis=1) - 4))).mean())


def recorded(folder: Path) -> Landscape:
    """Returns the landscape of a run's points: each point's value is that of its neighbours, by inverse distance."""
    trials = [trial for trial in fold(read(folder / "journal.jsonl")).trials.values() if trial.objectives]
    found = [(t.candidate.proposal, t.objectives[0]) for t in trials if isinstance(t.candidate.proposal, tuple)]
    if len(found) < 20:
        raise SystemExit(f"{folder} has {len(found)} scored points of a box: too few for a landscape")
    points, values = np.array([point for point, _ in found]), np.array([value for _, value in found])
    low, high = points.min(axis=0), points.max(axis=0)
    spans = np.where(high > low, high - low, 1.0)
    scaled = (points - low) / spans

    def value(point: Point) -> float:
        gaps = np.linalg.norm(scaled - (np.array(point) - low) / spans, axis=1)
        near = np.argsort(gaps)[: 2 * len(low)]
        shares = 1 / (gaps[near] ** 2 + 1e-3)
        return float(shares @ values[near] / shares.sum())

    box = Box(low=tuple(map(float, low)), high=tuple(map(float, high)))
    best = max(value(tuple(map(float, point))) for point in points)
    return Landscape(box=box, start=tuple(map(float, points[0])), value=value, best=best)


def _best_of_skills() -> float:
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 1.5, 41)] * 3), axis=-1).reshape(-1, 3)
    return max(skills(tuple(point)) for point in grid)


LANDSCAPES: Mapping[str, Callable[[], Landscape]] = {
    "bowl, 6 coordinates": lambda: made_up(6, bowl, 0.9),
    "ridge, 20 coordinates": lambda: made_up(20, ridge, 0.9),
    "skills, 6 coordinates": lambda: made_up(6, skills, _best_of_skills()),
}
"""Name -> what makes it."""
