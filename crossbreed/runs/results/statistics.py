"""Bootstrap intervals over items, stratified by task, paired between models.

Items are drawn with replacement within each task, so a task keeps its weight. Two models are compared on the same
draws of the items that both answered: an item's difficulty is then common to both and cancels. The draws come from a
stream named after the task, so a task's interval does not depend on which others are reported beside it.

Of a task whose items nobody tells apart, means are drawn from normal distributions of the standard errors that are
told, for each model alone: nothing is paired. Where none is told, an interval has no bounds.

Nor has it where a task has a single item: that says nothing of how items differ.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crossbreed.randomness import spawn
from crossbreed.runs.spec.objectives import Floats, Measure, Objective, Scores
from crossbreed.types import ItemScores, Means

NUM_RESAMPLES = 10_000
LEVEL = 0.95
EXCLUDED = 1.96
"""Standard errors from 0 at which an interval of this level begins to exclude it."""
DETECTED = EXCLUDED + 0.84
"""Standard errors of a true difference whose interval excludes 0 in 80 % of cases."""
_BLOCK = 1 << 20
"""Indices drawn at a time: limits memory to a few tens of MB, whatever the number of items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its confidence interval over items of the same kind."""

    mean: float
    low: float
    """-inf where it is not known."""
    high: float
    """inf where it is not known."""
    n: int
    """The number of items, over all its tasks."""

    @property
    def is_known(self) -> bool:
        """Whether it has bounds."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def to_json(self) -> dict[str, float | None]:
        """Returns the documented JSON; bounds that are not known are null."""
        low, high = (self.low, self.high) if self.is_known else (None, None)
        return {"mean": self.mean, "low": low, "high": high, "n": self.n}


def interval(scores: Scores, objective: Measure, *, base: Scores | None = None, seed: int = 0) -> Interval:
    """Returns the objective of one model, with its 95 % bootstrap interval; paired with the base where it is needed."""
    return _bootstrap([scores], objective, base, seed)


def paired_difference(
    a: Scores, b: Scores, objective: Measure, *, base: Scores | None = None, seed: int = 0
) -> Interval:
    """Returns the improvement of `a` over `b` on the items that both answered; positive means better.

    >>> sums = ItemScores(item_ids=("p", "q"), values=(1.0, 0.0))
    >>> paired_difference({"sums": sums}, {"sums": sums}, Objective(kind="task", tasks=("sums",)))
    Interval(mean=0.0, low=0.0, high=0.0, n=2)
    """
    return _bootstrap([a, b], objective, base, seed)


def task_intervals(scores: Mapping[str, ItemScores], *, seed: int = 0) -> dict[str, Interval]:
    """Returns every task's mean with its interval."""
    return {task: interval(scores, Objective(kind="task", tasks=(task,)), seed=seed) for task in scores}


def pool(*parts: Mapping[str, ItemScores]) -> dict[str, ItemScores]:
    """Returns the items of several splits as one, task by task."""
    tasks = dict.fromkeys(task for part in parts for task in part)
    return {task: _joined([part[task] for part in parts if task in part]) for task in tasks}


def _joined(parts: Sequence[ItemScores]) -> ItemScores:
    told = [part.means for part in parts if part.means is not None]
    counts, errors = (count for one in told for count in one.counts), (error for one in told for error in one.errors)
    return ItemScores(
        item_ids=tuple(i for part in parts for i in part.item_ids),
        values=tuple(v for part in parts for v in part.values),
        means=Means(counts=tuple(counts), errors=tuple(errors)) if told else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """A task's means of all models (models K, resamples B)."""

    mean_K: Floats
    mean_KB: Floats
    """NaN where nothing is known of their spread."""
    num_items: int


def _bootstrap(models: Sequence[Scores], objective: Measure, base: Scores | None, seed: int) -> Interval:
    """Returns the objective of one model, or the improvement of the first over the second."""
    assert base is not None or not objective.needs_base, "what is relative to the base needs its scores"
    asked = [*models, base] if base is not None and objective.needs_base else models
    drawn = {task: _drawn([model[task] for model in asked], task, seed) for task in objective.tasks}
    point = _over(objective, {task: found.mean_K for task, found in drawn.items()}, len(models))
    spreads = _over(objective, {task: found.mean_KB for task, found in drawn.items()}, len(models))
    if len(models) == 2 and all(models[0][task] is models[1][task] for task in objective.tasks):
        spreads = np.zeros_like(spreads)  # a model against itself, whatever is known of it
    mean, spread = (point[0], spreads[0]) if len(models) == 1 else (_gain(objective, point), _gain(objective, spreads))
    low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    is_known = bool(np.isfinite(low) and np.isfinite(high))
    return Interval(  # `worst` is biased downwards under resampling: an interval never excludes its own mean
        mean=float(mean),
        low=float(min(low, mean)) if is_known else -math.inf,
        high=float(max(high, mean)) if is_known else math.inf,
        n=sum(found.num_items for found in drawn.values()),
    )


def _over(objective: Measure, means: Mapping[str, Floats], num_models: int) -> Floats:
    """Returns the objective of the models, which come before the base."""
    of_models, of_base = ({task: mean[part] for task, mean in means.items()} for part in _parts(num_models))
    return objective.over(of_models, of_base if objective.needs_base else None)


def _parts(num_models: int) -> tuple[slice, slice]:
    return slice(None, num_models), slice(num_models, None)


def _drawn(models: Sequence[ItemScores], task: str, seed: int) -> _Drawn:
    if all(model.means is None for model in models):
        v_KI = _shared(models)
        means = _resampled_means(v_KI, task, seed)
        return _Drawn(mean_K=v_KI.mean(axis=1), mean_KB=means, num_items=v_KI.shape[1])
    rng, rows = spawn(seed, "bootstrap", task), dict[int, Floats]()
    for model in models:  # one that stands on both sides is drawn once
        error = model.standard_error
        row = np.full(NUM_RESAMPLES, math.nan) if error is None else rng.normal(model.mean, error, NUM_RESAMPLES)
        rows.setdefault(id(model), row)
    return _Drawn(
        mean_K=np.array([model.mean for model in models]),
        mean_KB=np.stack([rows[id(model)] for model in models]),
        num_items=models[0].num_items,
    )


def _gain(objective: Measure, value_K: Floats) -> Floats:
    difference: Floats = value_K[0] - value_K[1]
    return -difference + 0.0 if objective.minimize else difference  # + 0.0: no negative zero


def _shared(models: Sequence[ItemScores]) -> Floats:
    """Returns the values of the items that all models answered, sorted by item id: (models K, items I)."""
    columns = [dict(zip(model.item_ids, model.values, strict=True)) for model in models]
    shared = sorted(set.intersection(*(set(column) for column in columns)))
    assert shared, "no item was answered by all models"
    return np.array([[column[item_id] for item_id in shared] for column in columns], dtype=np.float64)


def _resampled_means(v_KI: Floats, task: str, seed: int) -> Floats:
    """Returns means over items drawn with replacement, the same for all models: (models K, resamples B).

    NaN where there is one item, of which every draw would be the same.
    """
    rng = spawn(seed, "bootstrap", task)
    num_models, num_items = v_KI.shape
    if num_items == 1:
        return np.full((num_models, NUM_RESAMPLES), math.nan)
    means_KB = np.empty((num_models, NUM_RESAMPLES))
    step = max(1, _BLOCK // num_items)
    for start in range(0, NUM_RESAMPLES, step):
        stop = min(start + step, NUM_RESAMPLES)
        drawn_BI = rng.integers(num_items, size=(stop - start, num_items))
        for k in range(num_models):
            means_KB[k, start:stop] = v_KI[k][drawn_BI].mean(axis=1)
    return means_KB
