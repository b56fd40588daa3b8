"""Objectives: scalar functions of the tasks' means, written over arrays so that a bootstrap is one call."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import model_validator

from crossbreed.config import Config
from crossbreed.errors import Collector, InputError
from crossbreed.types import ItemScores

Floats: TypeAlias = NDArray[np.float64]


class ObjectiveConfig(Config):
    """One objective: exactly one of `mean`, `worst` and `task`."""

    mean: tuple[str, ...] | None = None
    """The (weighted) mean of these tasks' means."""
    worst: tuple[str, ...] | None = None
    """The worst of these tasks' means."""
    task: str | None = None
    """The mean of this task."""
    weights: tuple[float, ...] | None = None
    """One non-negative weight for each task of `mean`; default: equal weights."""
    minimize: bool | None = None
    """Whether less is better; default: the direction of the tasks' metrics."""

    @model_validator(mode="after")
    def _one_kind(self) -> "ObjectiveConfig":
        given = [kind for kind in ("mean", "worst", "task") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"an objective has one of `mean`, `worst` and `task`, got {' and '.join(given) or 'none'}")
        names = self.task_names
        if not names or len(set(names)) < len(names):
            raise ValueError(f"`{given[0]}` must name distinct tasks, at least one, got {list(names)}")
        if self.weights is not None:
            if self.mean is None:
                raise ValueError(f"`weights` are for `mean`; `{given[0]}` takes none")
            if len(self.weights) != len(names) or min(self.weights) < 0 or sum(self.weights) == 0:
                raise ValueError(f"`weights` must be {len(names)} non-negative numbers, not all 0")
        return self

    @property
    def task_names(self) -> tuple[str, ...]:
        """The named tasks, whatever the kind."""
        return self.mean or self.worst or ((self.task,) if self.task else ())


class Measure:
    """A scalar function of task means, with a direction."""

    __slots__ = ()
    tasks: tuple[str, ...]
    minimize: bool

    def over(self, means: Mapping[str, Floats]) -> Floats:
        """Returns the value at every position of the tasks' mean arrays, which share one shape."""
        raise NotImplementedError

    def value(self, means: Mapping[str, float]) -> float:
        """Returns the value for one mean per task."""
        return float(self.over({task: np.asarray(means[task], dtype=np.float64) for task in self.tasks}))

    def of(self, scores: Mapping[str, ItemScores]) -> float:
        """Returns the value for one model's item scores."""
        return self.value({task: scores[task].mean for task in self.tasks})

    def improvement(self, value: float, over: float) -> float:
        """Returns how much better `value` is: positive is better, in either direction."""
        return over - value if self.minimize else value - over

    def utility(self, value: float) -> float:
        """Returns a number that is larger where `value` is better."""
        return self.improvement(value, over=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective(Measure):
    """One objective of a run, in its natural direction, never negated.

    >>> Objective(kind="worst", tasks=("sums", "french")).value({"sums": 0.9, "french": 0.4})
    0.4
    """

    kind: Literal["mean", "worst", "task"]
    tasks: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    minimize: bool = False

    @property
    def name(self) -> str:
        """The name in tables and on axes."""
        names = ", ".join(self.tasks)
        if self.weights is not None:
            names = ", ".join(f"{weight:g} {task}" for weight, task in zip(self.weights, self.tasks, strict=True))
        return names if self.kind == "task" else f"{self.kind} of {names}"

    @property
    def shares(self) -> dict[str, float]:
        """Task -> its share in the mean, summing to 1; equal for `worst`, since any of its tasks may be the worst."""
        weights = self.weights or (1.0,) * len(self.tasks)
        return {task: weight / math.fsum(weights) for task, weight in zip(self.tasks, weights, strict=True)}

    def over(self, means: Mapping[str, Floats]) -> Floats:
        """Returns the objective at every position of the means."""
        stacked = np.stack([means[task] for task in self.tasks])
        if self.kind == "worst":
            return np.asarray(stacked.max(axis=0) if self.minimize else stacked.min(axis=0))
        return np.asarray(np.average(stacked, axis=0, weights=self.weights))


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalized(Measure):
    """Several objectives as one scalar: their mean, each 0 at the worst baseline and 1 at the best. More is better."""

    objectives: tuple[Objective, ...]
    worst: tuple[float, ...]
    """The worst baseline value of each objective; `best` likewise."""
    best: tuple[float, ...]
    tasks: tuple[str, ...]
    minimize: bool = False

    @property
    def name(self) -> str:
        """The name in tables and on axes."""
        return "mean of normalised objectives"

    def over(self, means: Mapping[str, Floats]) -> Floats:
        """Returns the scalar at every position of the means. A model that beats every baseline is above 1.

        Where all baselines are equal, the unit is the objective's own.
        """
        parts = [
            (objective, worst, best - worst or objective.utility(1.0))
            for objective, worst, best in zip(self.objectives, self.worst, self.best, strict=True)
        ]
        return np.asarray(np.mean([(o.over(means) - worst) / span for o, worst, span in parts], axis=0))


Scalar: TypeAlias = Objective | Normalized


def item_values(objectives: Sequence[Objective], scores: Mapping[str, ItemScores]) -> tuple[float, ...]:
    """Returns the values of all items that the objectives read, more is better; none if a task tells only means."""
    shares, values = _shares(objectives), list[float]()
    if any(scores[task].means is not None for task in shares):
        return ()
    for task, share in shares.items():
        values += scores[task].values if share >= 0 else [-value for value in scores[task].values]
    return tuple(values)


def item_weights(objectives: Sequence[Objective], num_items: Mapping[str, int]) -> tuple[float, ...]:
    """Returns the weight of each of `item_values`, 1 on average; empty if all are equal.

    With these weights, their mean is the mean of the objectives, unless one is a `worst`, which weights its tasks
    equally.

    Args:
        objectives: The run's objectives.
        num_items: Task -> number of its items in the search split.
    """
    shares = _shares(objectives)
    total = sum(num_items[task] for task in shares)
    weights = [abs(share) * total / num_items[task] for task, share in shares.items() for _ in range(num_items[task])]
    return tuple(weights) if len(set(weights)) > 1 else ()


def _shares(objectives: Sequence[Objective]) -> dict[str, float]:
    """Returns task -> its share in the mean of the objectives, negative if less is better."""
    shares: dict[str, float] = {}
    for objective in objectives:
        sign = -1 if objective.minimize else 1
        for task, share in objective.shares.items():
            shares[task] = shares.get(task, 0.0) + sign * share / len(objectives)
    return shares


def build_objectives(configs: Sequence[ObjectiveConfig], minimized: Mapping[str, bool]) -> tuple[Objective, ...]:
    """Returns the objectives of a spec.

    Args:
        configs: As given in the spec; none means the mean over all tasks.
        minimized: Task name -> whether less of its metric is better.

    Raises:
        InputError: a task is unknown, or tasks of opposite directions share an objective.
    """
    configs = configs or [ObjectiveConfig(mean=tuple(minimized))]
    return tuple(_build(config, minimized, f"fitness.objectives.{i}") for i, config in enumerate(configs))


def check_objectives(configs: Sequence[ObjectiveConfig], minimized: Mapping[str, bool]) -> tuple[InputError, ...]:
    """Returns what is wrong with each of the objectives of a spec; see `build_objectives`."""
    mistakes = Collector()
    for i, config in enumerate(configs or [ObjectiveConfig(mean=tuple(minimized))]):
        with mistakes.noted():
            _build(config, minimized, f"fitness.objectives.{i}")
    return mistakes.errors


def _build(config: ObjectiveConfig, minimized: Mapping[str, bool], where: str) -> Objective:
    tasks = config.task_names
    for task in tasks:
        if task not in minimized:
            close = get_close_matches(task, minimized, n=1)
            raise InputError(
                f"an objective names the unknown task `{task}`",
                expected=f"one of {', '.join(minimized)}",
                got=task,
                where=where,
                fix=f"write `{close[0]}`" if close else "name a task of fitness.tasks",
            )
    directions = {minimized[task] for task in tasks}
    if len(directions) > 1:
        fewer = [task for task in tasks if minimized[task]]
        less, flow = ", ".join(fewer), yaml.safe_dump({"task": fewer[0]}, default_flow_style=True).strip()
        raise InputError(
            "an objective mixes tasks where more is better with tasks where less is better",
            expected="tasks of one direction",
            got=f"{', '.join(tasks)}; less is better in {less}",
            where=where,
            fix=f"take {less} out, and make {fewer[0]} an objective of its own: {flow}",
        )
    return Objective(
        kind="mean" if config.mean else "worst" if config.worst else "task",
        tasks=tasks,
        weights=config.weights,
        minimize=directions.pop() if config.minimize is None else config.minimize,
    )


def build_scalar(objectives: Sequence[Objective], baselines: Iterable[Sequence[float]]) -> Scalar:
    """Returns the scalar that reports use: the objective itself, or the normalised mean of several.

    Args:
        objectives: The run's objectives.
        baselines: The objective values of base, experts and uniform on the search items. They are known before
            anything is selected, so the scale does not depend on what is reported on it. `tuned_scalar` is left out:
            at s = 3 a merge can be broken, and its perplexity would flatten every other difference.
    """
    if len(objectives) == 1:
        return objectives[0]
    columns = list(zip(*baselines, strict=True)) or [(0.0,)] * len(objectives)
    lows, highs = [min(c) for c in columns], [max(c) for c in columns]
    pairs = [(high, low) if o.minimize else (low, high) for o, low, high in zip(objectives, lows, highs, strict=True)]
    return Normalized(
        objectives=tuple(objectives),
        worst=tuple(worst for worst, _ in pairs),
        best=tuple(best for _, best in pairs),
        tasks=tuple(dict.fromkeys(task for o in objectives for task in o.tasks)),
    )
