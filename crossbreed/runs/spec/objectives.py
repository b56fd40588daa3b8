"""Objectives: scalar functions of the tasks' means, written over arrays so that a bootstrap is one call.

Some are relative to baselines on the same items: their means come beside those of the model that is judged.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Annotated, Literal, Self, TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, model_validator

from crossbreed.config import Config
from crossbreed.errors import Collector, InputError
from crossbreed.types import ItemScores

Floats: TypeAlias = NDArray[np.float64]
Scores: TypeAlias = Mapping[str, ItemScores]
"""Task, or the length of its answers -> the values of one model."""
KINDS = ("mean", "worst", "quantile", "task", "length")
"""The keys that say what is measured."""
LENGTH = "length of "
"""What stands before a task's name in the name of the length of its answers."""


def length_of(task: str) -> str:
    """Returns the name under which the length of a task's answers is measured."""
    return f"{LENGTH}{task}"


class MeasureConfig(Config):
    """One number of a model: exactly one of `mean`, `worst`, `quantile`, `task` and `length`."""

    mean: tuple[str, ...] | None = None
    """The (weighted) mean of these tasks' means."""
    worst: tuple[str, ...] | None = None
    """The worst of these tasks' means."""
    quantile: tuple[str, ...] | None = None
    """The mean than which the share `at` of these tasks is worse, interpolated."""
    task: str | None = None
    """The mean of this task."""
    length: str | None = None
    """The tokens that this task's answers have on average, without thinking, stop and end; one that is cut has
    `max_tokens`."""
    weights: tuple[float, ...] | None = None
    """One weight for each task of `mean`; default: equal weights. A task with a negative one is to be unlearnt, or is
    a loss among scores. The sum is divided by the weights without their signs."""
    at: Annotated[float, Field(gt=0, lt=1)] | None = None
    """For `quantile`: 0.25 is the mean than which a quarter of the tasks is worse."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                "an objective or constraint has one of `mean`, `worst`, `quantile`, `task` and `length`, got "
                f"{' and '.join(given) or 'none'}"
            )
        names = self.task_names
        if not names or len(set(names)) < len(names):
            raise ValueError(f"`{given[0]}` must name distinct tasks, at least one, got {list(names)}")
        if (self.at is None) is (self.quantile is not None):
            raise ValueError(
                "`quantile` needs `at`, the share of its tasks that may be worse, as in `at: 0.25`"
                if self.quantile is not None
                else f"`at` is for `quantile`; `{given[0]}` takes none"
            )
        if self.weights is not None:
            self._check_weights(given[0])
        return self

    def _check_weights(self, kind: str) -> None:
        weights, names = self.weights or (), self.task_names
        if self.mean is None:
            raise ValueError(f"`weights` are for `mean`; `{kind}` takes none")
        if len(weights) != len(names) or not any(weights):
            raise ValueError(f"`weights` must be {len(names)} numbers, not all 0")
        if max(weights) <= 0:
            raise InputError(
                "no weight of an objective is above 0: nothing says which way is better",
                expected="at least one positive weight",
                got=f"weights: {list(weights)}",
                fix=f"to unlearn one task, write {{task: {names[0]}, minimize: true}}; beside it, give what is to be "
                "kept a positive weight",
            )

    @property
    def task_names(self) -> tuple[str, ...]:
        """The named tasks, whatever the kind."""
        alone = self.task or self.length
        return self.mean or self.worst or self.quantile or ((alone,) if alone else ())


class ObjectiveConfig(MeasureConfig):
    """One objective: exactly one of `mean`, `worst`, `quantile`, `task` and `length` (docs/objectives.md)."""

    minimize: bool | None = None
    """Whether less is better; default: the direction of the tasks' metrics. Less is better of a length."""
    relative_to: Literal["base", "experts"] | None = None
    """`base`: each task's difference to the base. `experts`: the share of the gap between the base and the best expert
    at that task, so that tasks of any scale and direction can be averaged. Both on the same items."""


class Measure:
    """A scalar function of task means, with a direction."""

    __slots__ = ()
    tasks: tuple[str, ...]
    minimize: bool

    @property
    def needs_base(self) -> bool:
        """Whether it is relative to the base, whose scores on the same items it then needs."""
        return False

    def over(self, means: Mapping[str, Floats], base: Mapping[str, Floats] | None = None) -> Floats:
        """Returns the value at every position of the tasks' mean arrays, which share one shape.

        Args:
            means: Task -> means of models.
            base: Task -> the base's means, in a shape that fits; for what `needs_base`.
        """
        raise NotImplementedError

    def value(self, means: Mapping[str, float], base: Mapping[str, float] | None = None) -> float:
        """Returns the value for one mean per task."""
        return float(self.over(self._arrays(means), None if base is None else self._arrays(base)))

    def of(self, scores: Scores, base: Scores | None = None) -> float:
        """Returns the value for one model's item scores, and those of the base on the same items."""
        return self.value(self._means(scores), self._means(base) if self.needs_base and base is not None else None)

    def improvement(self, value: float, over: float) -> float:
        """Returns how much better `value` is: positive is better, in either direction."""
        return over - value if self.minimize else value - over

    def utility(self, value: float) -> float:
        """Returns a number that is larger where `value` is better."""
        return self.improvement(value, over=0.0)

    def _means(self, scores: Scores) -> dict[str, float]:
        return {task: scores[task].mean for task in self.tasks}

    def _arrays(self, means: Mapping[str, float]) -> dict[str, Floats]:
        return {task: np.asarray(means[task], dtype=np.float64) for task in self.tasks}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective(Measure):
    """One objective of a run, in its natural direction, never negated.

    >>> Objective(kind="worst", tasks=("sums", "french")).value({"sums": 0.9, "french": 0.4})
    0.4
    """

    kind: Literal["mean", "worst", "quantile", "task"]
    tasks: tuple[str, ...]
    """Tasks, or lengths of their answers."""
    weights: tuple[float, ...] | None = None
    minimize: bool = False
    at: float = 0.0
    """Of a quantile: the share that may be worse."""
    relative_to: Literal["base", "experts"] | None = None
    less: frozenset[str] = frozenset()
    """Of `experts`: the tasks of whose metric less is better."""
    gains: tuple[float, ...] | None = None
    """Of `experts`: what the best expert adds to the base at each task on the search items; None: not known yet."""

    @property
    def name(self) -> str:
        """The name in tables and on axes."""
        names = ", ".join(self.tasks)
        if self.weights is not None:
            names = ", ".join(f"{weight:g} {task}" for weight, task in zip(self.weights, self.tasks, strict=True))
        kind = f"quantile {self.at:g}" if self.kind == "quantile" else self.kind
        over = {"base": " over the base", "experts": " (share of the experts' gain)", None: ""}[self.relative_to]
        return (names if self.kind == "task" else f"{kind} of {names}") + over

    @property
    def needs_base(self) -> bool:
        """See Measure."""
        return self.relative_to is not None

    @property
    def shares(self) -> dict[str, float]:
        """Task -> its share in the mean, without signs summing to 1.

        Equal for `worst` and `quantile`, since any of their tasks may be the one that counts.
        """
        weights = self.weights or (1.0,) * len(self.tasks)
        return {task: weight / math.fsum(map(abs, weights)) for task, weight in zip(self.tasks, weights, strict=True)}

    @property
    def lesser(self) -> frozenset[str]:
        """The tasks of which a smaller mean makes the objective better."""
        flipped = self.less if self.relative_to == "experts" else frozenset[str]()
        signs = {task: (share < 0) ^ self.minimize ^ (task in flipped) for task, share in self.shares.items()}
        return frozenset(task for task, is_lesser in signs.items() if is_lesser)

    @property
    def plain(self) -> Self:
        """The same of the tasks' own means: what a journal records, for it needs nothing but them."""
        return self if self.relative_to is None else replace(self, relative_to=None, gains=None)

    def over(self, means: Mapping[str, Floats], base: Mapping[str, Floats] | None = None) -> Floats:
        """Returns the objective at every position of the means."""
        stacked = [means[task] for task in self.tasks]
        if self.relative_to is not None:
            assert base is not None, "what is relative to the base needs its means"
            stacked = [mean - base[task] for mean, task in zip(stacked, self.tasks, strict=True)]
        if self.relative_to == "experts":
            assert self.gains is not None, "the gains are known once the baselines are"
            stacked = [mean / gain for mean, gain in zip(stacked, self.gains, strict=True)]
        return self._combined(np.stack(stacked))

    def _combined(self, stacked: Floats) -> Floats:
        if self.kind == "worst":
            return np.asarray(stacked.max(axis=0) if self.minimize else stacked.min(axis=0))
        if self.kind == "quantile":
            return np.asarray(np.quantile(stacked, 1 - self.at if self.minimize else self.at, axis=0))
        if self.weights is not None and min(self.weights) < 0:
            return np.asarray(np.tensordot([*self.shares.values()], stacked, axes=1))
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

    @property
    def needs_base(self) -> bool:
        """Whether one of them does."""
        return any(objective.needs_base for objective in self.objectives)

    def over(self, means: Mapping[str, Floats], base: Mapping[str, Floats] | None = None) -> Floats:
        """Returns the scalar at every position of the means. A model that beats every baseline is above 1.

        Where all baselines are equal, the unit is the objective's own.
        """
        parts = [
            (objective, worst, best - worst or objective.utility(1.0))
            for objective, worst, best in zip(self.objectives, self.worst, self.best, strict=True)
        ]
        return np.asarray(np.mean([(o.over(means, base) - worst) / span for o, worst, span in parts], axis=0))


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

    With these weights, their mean is the mean of the objectives, unless one is a `worst` or a `quantile`, which weight
    their tasks equally, or is relative to what is not known yet.

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
        for task, share in objective.shares.items():
            sign = -1 if task in objective.lesser else 1
            shares[task] = shares.get(task, 0.0) + sign * abs(share) / len(objectives)
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
    measure = build_measure(config, minimized, where, mixed=config.relative_to == "experts")
    minimize = measure.minimize and config.relative_to != "experts"
    return replace(
        measure,
        minimize=minimize if config.minimize is None else config.minimize,
        relative_to=config.relative_to,
        less=measure.less if config.relative_to == "experts" else frozenset(),
    )


def build_measure(
    config: MeasureConfig, minimized: Mapping[str, bool], where: str, *, mixed: bool = False, what: str = "an objective"
) -> Objective:
    """Returns what a config measures, with the direction of its tasks.

    Args:
        config: As given in the spec.
        minimized: Task name -> whether less of its metric is better.
        where: Its dotted key.
        mixed: Whether tasks of opposite directions may stand together.
        what: What it is, for messages.

    Raises:
        InputError: a task is unknown, or tasks of opposite directions stand together.
    """
    tasks = config.task_names
    for task in tasks:
        if task not in minimized:
            close = get_close_matches(task, minimized, n=1)
            raise InputError(
                f"{what} names the unknown task `{task}`",
                expected=f"one of {', '.join(minimized)}",
                got=task,
                where=where,
                fix=f"write `{close[0]}`" if close else "name a task of fitness.tasks",
            )
    if config.length is not None:
        return Objective(kind="task", tasks=(length_of(config.length),), minimize=True, less=_one(config.length))
    weights = config.weights or (1.0,) * len(tasks)
    directions = {minimized[task] for task, weight in zip(tasks, weights, strict=True) if weight >= 0}
    if len(directions) > 1 and not mixed:
        fewer = [task for task in tasks if minimized[task]]
        less, flow = ", ".join(fewer), yaml.safe_dump({"task": fewer[0]}, default_flow_style=True).strip()
        raise InputError(
            f"{what} mixes tasks where more is better with tasks where less is better",
            expected="tasks of one direction",
            got=f"{', '.join(tasks)}; less is better in {less}",
            where=where,
            fix=f"take {less} out, and make {fewer[0]} {what} of its own: {flow}",
        )
    return Objective(
        kind="mean" if config.mean else "worst" if config.worst else "quantile" if config.quantile else "task",
        tasks=tasks,
        weights=config.weights,
        at=config.at or 0.0,
        minimize=min(directions),
        less=frozenset(task for task in tasks if minimized[task]),
    )


def _one(task: str) -> frozenset[str]:
    return frozenset([length_of(task)])


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
