"""The report of a run, on items that the search never used: winner, baselines, differences, gap to the ideal.

`report.json` contains this value; `report_text`, the page and the model card show it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from crossbreed.constraints import violation_of
from crossbreed.errors import MachineError
from crossbreed.figures import Figure
from crossbreed.fitness.engines.registry import Takes
from crossbreed.runs.record.relative_criteria import RelativeCriteria
from crossbreed.runs.results.base_rates import BaseRate
from crossbreed.runs.results.figures import figures_in, figures_json
from crossbreed.runs.results.held import Held, held_by
from crossbreed.runs.results.judging import Judged, judged_in
from crossbreed.runs.results.statistics import LEVEL, Interval, interval, paired_difference, task_intervals
from crossbreed.runs.results.vouching import Vouching, vouching_of
from crossbreed.runs.results.winner import (
    TUNED_SCALAR,
    UNIFORM,
    WINNER,
    Baseline,
    named_baselines,
    row_name,
    search_scalar,
)
from crossbreed.runs.spec.objectives import Objective, Scalar, Scores, length_of
from crossbreed.runs.stages.table import StageRow
from crossbreed.types import BaselineKind, ItemScores, ProposedBy, Recipe, Score, Status, Trial

REPORT_SCHEMA = 1
NEAR_A_TIE = 0.05
"""Nats. In low precision, log-probabilities of the same weights differ as much between engines and batches."""
RowKind: TypeAlias = BaselineKind | Literal["winner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model on the report split."""

    name: str
    """`winner`, or a baseline's `row_name`."""
    kind: RowKind
    number: int
    """The trial's number."""
    proposed_by: ProposedBy
    recipe: Recipe
    fingerprint: str | None
    """The fingerprint of the evaluated weights, if known."""
    vouching: Vouching
    """The source of the fingerprint."""
    value: Interval
    """The report's scalar."""
    objectives: tuple[float, ...]
    tasks: Mapping[str, Interval]
    constraints: tuple[Held, ...] = ()
    figures: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    """Task -> metric that only all its items together have, like BLEU -> its value."""

    @property
    def num_broken(self) -> int:
        """How many constraints it breaks, as far as means go."""
        return sum(not held.is_kept for held in self.constraints)

    @property
    def is_bred(self) -> bool:
        """Whether the optimizer proposed it: it is neither a baseline nor a warm start."""
        return self.proposed_by.kind == "optimizer"

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            **self.value.to_json(),
            "tasks": {task: found.to_json() for task, found in self.tasks.items()},
            "objectives": list(self.objectives),
            **({"constraints": [held.to_json() for held in self.constraints]} if self.constraints else {}),
            **({"figures": figures_json(self.figures)} if self.figures else {}),
            "number": self.number,
            "origin": str(self.proposed_by),
            "recipe_id": self.recipe.id,
            "fingerprint": self.fingerprint,
            "weights": self.vouching.value,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The improvement of the winner over `name`, paired on the items; positive means better, in either direction."""

    name: str
    by: Interval

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        return {"name": self.name, **self.by.to_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ideal:
    """A hypothetical model that is as good at every task as the best of base, experts and winner at that task."""

    value: Interval
    tasks: Mapping[str, Interval]
    parents: Mapping[str, str]
    """Task -> the best of them: an expert's name, `base` or `winner`."""
    gap: Interval
    """The improvement of the ideal over the winner: never below 0."""

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        return {
            **self.value.to_json(),
            "tasks": {task: found.to_json() for task, found in self.tasks.items()},
            "parents": dict(self.parents),
            "gap": self.gap.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run's result."""

    winner: Row
    baselines: tuple[Row, ...]
    """The measured ones of base, each expert, uniform and tuned_scalar."""
    to_best_baseline: Difference | None
    """The difference to the baseline, other than tuned_scalar, that is best on the report split: of those that break
    the fewest constraints."""
    to_tuned_scalar: Difference | None
    optimism: float
    """The excess of the winner's score on its search items over that on the report items."""
    ideal: Ideal | None
    objectives: tuple[Objective, ...]
    scalar: Scalar
    num_trials: Mapping[Status, int]
    is_over: bool
    """Whether the search is complete. False: it was interrupted, and can be resumed."""
    has_gone_on: bool
    """Whether the search has gone on since: then this is of its earlier end."""
    unmeasured: Mapping[str, str]
    """Baseline without a row -> the reason."""
    base_rates: Mapping[str, BaseRate]
    """Task with options -> what is right without reading the question, on the report items."""
    thinking: Mapping[str, float]
    """Task that cuts thoughts -> tokens of them in an answer of the winner, on average."""
    judged: Mapping[str, Judged]
    """Task with a judge -> its verdicts on the winner's answers, where there is something to tell."""
    judged_others: Mapping[str, Judged]
    """The same, of the baselines' answers together."""
    stages: tuple[StageRow, ...]
    """What the baselines and each stage gave; none in a run without a list of stages."""
    near_ties: Mapping[str, tuple[int, int]]
    """Task -> how many of the winner's answers are nearly ties, and of how many that is known."""
    means: Mapping[str, bool]
    """Task of which the provider tells only means -> whether it tells their standard errors."""
    cut: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Task whose length is measured -> on how many items all answers of the winner were cut at `max_tokens`, of how
    many."""
    num_keeping: int | None = None
    """How many trials keep all constraints on the search items; None: there are no constraints."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """The baselines, then the winner."""
        return (*self.baselines, self.winner)

    @property
    def won(self) -> frozenset[str]:
        """The names of the baselines that the winner is."""
        return frozenset(row.name for row in self.baselines if row.number == self.winner.number)


def make_report(
    *,
    trials: Sequence[Trial],
    winner: int,
    scores: Mapping[int, Score],
    objectives: Sequence[Objective],
    seed: int = 0,
    is_over: bool = True,
    takes: Takes = "weights",
    left_out: Mapping[int, str] = MappingProxyType({}),
    margins: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    base_rates: Mapping[str, BaseRate] = MappingProxyType({}),
    thinking: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    stages: tuple[StageRow, ...] = (),
    relative_criteria: RelativeCriteria | None = None,
    most_tokens: Mapping[str, int] = MappingProxyType({}),
) -> Report:
    """Returns the report of a run.

    Args:
        trials: The whole search.
        winner: Number of the trial to report on: `choose_winner`'s, or one picked by the user.
        scores: Trial number -> score on the report split, for the trials returned by `reported`.
        objectives: The run's objectives.
        seed: The Spec's seed, from which the bootstrap's draws are spawned.
        is_over: Whether the search is complete.
        takes: What the engine takes.
        left_out: Number of a trial that has no score on the report split -> why.
        margins: Task -> item -> nats from a tie of the winner's answer, where that is known.
        base_rates: Task with options -> its base rates on the report items.
        thinking: Task -> item -> tokens of the winner's answer that were cut as thinking.
        stages: What each stage gave.
        relative_criteria: Of a run with constraints, or objectives that are relative to baselines.
        most_tokens: Task whose length is measured -> the most tokens of an answer.

    Raises:
        MachineError: the winner could not be measured on the report split, or the base that it is judged by.
    """
    scalar = search_scalar(trials, objectives)
    winning = next(t for t in trials if t.number == winner)
    measured = {number: score.tasks for number, score in scores.items() if score.status is Status.OK}
    if winner not in measured:
        raise MachineError(f"trial {winner} could not be measured on the report split{_why(scores.get(winner))}")
    base, constraints = (
        (None, ())
        if relative_criteria is None
        else (relative_criteria.base_on(scores), relative_criteria.given.constraints)
    )
    if scalar.needs_base and base is None:
        raise MachineError("the base could not be measured on the report split, and objectives are relative to it")

    def row(trial: Trial, name: str, kind: RowKind) -> Row:
        tasks, vouching = measured[trial.number], vouching_of(scores[trial.number], takes)
        assert vouching is not None, "a row is of a measured trial"
        return Row(
            name=name,
            kind=kind,
            number=trial.number,
            proposed_by=trial.candidate.proposed_by,
            recipe=trial.recipe,
            fingerprint=scores[trial.number].fingerprint,
            vouching=vouching,
            value=interval(tasks, scalar, base=base, seed=seed),
            objectives=tuple(objective.of(tasks, base) for objective in objectives),
            tasks=task_intervals(tasks, seed=seed),
            constraints=held_by(tasks, base, constraints, seed=seed),
            figures=figures_in(tasks),
        )

    def difference(other: Row) -> Difference:
        by = paired_difference(measured[winner], measured[other.number], scalar, base=base, seed=seed)
        return Difference(name=other.name, by=by)

    baselines = named_baselines(trials, objectives)
    rows = [row(b.trial, b.name, b.kind) for b in baselines if b.trial.number in measured]
    plain = [r for r in rows if r.kind != TUNED_SCALAR]
    best = max(plain, key=lambda r: (-r.num_broken, scalar.utility(r.value.mean)), default=None)
    tuned = next((r for r in rows if r.kind == TUNED_SCALAR), None)
    crowned = row(winning, WINNER, "winner")
    return Report(
        winner=crowned,
        baselines=tuple(rows),
        to_best_baseline=difference(best) if best else None,
        to_tuned_scalar=difference(tuned) if tuned else None,
        optimism=scalar.improvement(_on_search(winning, scalar, trials, relative_criteria), over=crowned.value.mean),
        ideal=_ideal(rows, crowned, measured, scalar, base, seed),
        objectives=tuple(objectives),
        scalar=scalar,
        is_over=is_over,
        has_gone_on=False,
        num_trials={status: n for status in Status if (n := sum(t.score.status is status for t in trials))},
        unmeasured=_unmeasured(trials, baselines, scores, left_out),
        base_rates=base_rates,
        thinking={task: fsum(found.values()) / len(found) for task, found in thinking.items() if found},
        judged=judged_in([measured[winner]]),
        judged_others=judged_in(measured[r.number] for r in rows if r.number != winner),
        stages=stages,
        near_ties={
            task: (sum(margin < NEAR_A_TIE for margin in found.values()), len(found))
            for task, found in margins.items()
            if found
        },
        means={
            task: all(tasks[task].standard_error is not None for tasks in measured.values())
            for task, found in measured[winner].items()
            if found.means is not None
        },
        cut={
            task: (sum(value >= most for value in found.values), len(found.values))
            for task, most in most_tokens.items()
            if (found := measured[winner].get(length_of(task))) is not None
        },
        num_keeping=sum(t.objectives is not None and not violation_of(t.excesses) for t in trials)
        if constraints
        else None,
    )


def _on_search(
    winning: Trial, scalar: Scalar, trials: Sequence[Trial], relative_criteria: RelativeCriteria | None
) -> float:
    """Returns the winner's scalar on the search items."""
    base = next(
        (t.score.tasks for t in trials if relative_criteria is not None and t.number == relative_criteria.base_number),
        None,
    )
    return scalar.of(winning.score.tasks, base)


def report_json(report: Report) -> dict[str, Any]:
    """Returns the content of `report.json`."""
    return {
        "schema": REPORT_SCHEMA,
        "winner": report.winner.to_json() | {"recipe": report.winner.recipe.to_json()},
        "baselines": [row.to_json() for row in report.baselines],
        "difference_to_best_baseline": report.to_best_baseline and report.to_best_baseline.to_json(),
        "difference_to_tuned_scalar": report.to_tuned_scalar and report.to_tuned_scalar.to_json(),
        "optimism": report.optimism,
        "ideal": report.ideal and report.ideal.to_json(),
        "scalar": {"name": report.scalar.name, "minimize": report.scalar.minimize, "level": LEVEL},
        "objectives": [{"name": o.name, "minimize": o.minimize} for o in report.objectives],
        "trials": {status.value: n for status, n in report.num_trials.items()},
        "is_over": report.is_over,
        "has_gone_on": report.has_gone_on,
        "unmeasured": dict(report.unmeasured),
        "means": dict(report.means),
        "base_rates": {task: rate.to_json() for task, rate in report.base_rates.items()},
        "thinking": dict(report.thinking),
        "cut": {task: {"cut": some, "n": n} for task, (some, n) in report.cut.items()},
        "trials_keeping_constraints": report.num_keeping,
        "judged": {task: found.to_json() for task, found in report.judged.items()},
        "judged_baselines": {task: found.to_json() for task, found in report.judged_others.items()},
        "stages": [row.to_json() for row in report.stages],
        "near_ties": {task: {"near": near, "n": n, "nats": NEAR_A_TIE} for task, (near, n) in report.near_ties.items()},
    }


def _unmeasured(
    trials: Sequence[Trial], baselines: Sequence[Baseline], scores: Mapping[int, Score], left_out: Mapping[int, str]
) -> dict[str, str]:
    """Returns baseline without a row -> why: it has no value in the search, or none on the report items."""
    never = {
        row_name(by): t.score.status + _why(t.score)
        for t in trials
        if t.score.status is not Status.OK and (by := t.candidate.proposed_by).is_baseline
    }
    for baseline in baselines:
        score = scores.get(number := baseline.trial.number)
        if score is None or score.status is not Status.OK:
            why = f": {left_out[number]}" if number in left_out else _why(score)
            never[baseline.name] = f"not on the report split{why}"
    return never


def _ideal(
    rows: Sequence[Row],
    winner: Row,
    measured: Mapping[int, Mapping[str, ItemScores]],
    scalar: Scalar,
    base: Scores | None,
    seed: int,
) -> Ideal | None:
    """Returns the composite of the best at every task; of equals a parent.

    With a single expert, `uniform` is that expert.
    """
    parents = [r for r in rows if r.kind in ("base", "expert") or (r.kind == UNIFORM and len(r.recipe.sources) == 2)]
    if not parents:
        return None
    minimized = _minimized_tasks(scalar)
    best = {
        task: max([*parents, winner], key=lambda r: -r.tasks[task].mean if task in minimized else r.tasks[task].mean)
        for task in scalar.tasks
    }
    composite = {task: measured[r.number][task] for task, r in best.items()}
    return Ideal(
        value=interval(composite, scalar, base=base, seed=seed),
        tasks={task: r.tasks[task] for task, r in best.items()},
        parents={task: r.name for task, r in best.items()},
        gap=paired_difference(composite, measured[winner.number], scalar, base=base, seed=seed),
    )


def _minimized_tasks(scalar: Scalar) -> set[str]:
    objectives = (scalar,) if isinstance(scalar, Objective) else scalar.objectives
    return {task for objective in objectives for task in objective.lesser}


def _why(score: Score | None) -> str:
    return f": {score.error}" if score and score.error else ""
