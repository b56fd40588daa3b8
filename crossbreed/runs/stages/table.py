"""What each stage of a run gave: its best by search, what selection and report say of it, and what it cost."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from crossbreed.constraints import violation_of
from crossbreed.runs.record.history import History
from crossbreed.runs.results.statistics import pool
from crossbreed.runs.spec.objectives import Scalar, Scores
from crossbreed.runs.stages.naming import StageName
from crossbreed.types import Score, Status, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """A stage, or the baselines and warm starts before them."""

    name: StageName | None
    """None: baselines and warm starts."""
    num_trials: int
    seconds: float
    """Search time, and of what was made the time of making it, if that is known."""
    best: int | None
    """The number of its best trial on the search items; None if none was measured."""
    search: float | None
    """The report's scalar of that trial on the search items."""
    finalist: int | None = None
    """The number of its best trial on search and selection items together; None if none was measured on both."""
    select: float | None = None
    """That trial on the selection items."""
    report: float | None = None
    """That trial on the report items, if it answered them."""
    gap: float | None = None
    """How much better that trial is on search items than on report items, or on selection items without those."""

    @property
    def label(self) -> str:
        """What people call it."""
        return "baselines" if self.name is None else f"{self.name.number + 1} {self.name.label}"

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        return {
            "name": "baselines" if self.name is None else self.name.label,
            "stage": None if self.name is None else self.name.number,
            "trials": self.num_trials,
            "seconds": self.seconds,
            "best": self.best,
            "search": self.search,
            "finalist": self.finalist,
            "select": self.select,
            "report": self.report,
            "gap": self.gap,
        }


def stage_bests(history: History, names: Sequence[StageName], scalar: Scalar) -> list[Trial]:
    """Returns the best trial of each stage by search, for the selection items: the table compares them on these."""
    base = history.base_on("search")
    bests = (_best(trials, scalar, base) for _, trials in _by_stage(history, names))
    return [trial for trial in bests if trial is not None]


def stage_rows(
    history: History,
    names: Sequence[StageName],
    scalar: Scalar,
    *,
    made_s: Mapping[str, float] = MappingProxyType({}),
) -> tuple[StageRow, ...]:
    """Returns a row for the baselines and one for each stage that has a trial; none in a run without stages.

    Args:
        history: The run.
        names: Its stages.
        scalar: What the report compares by.
        made_s: Source that the run has made -> seconds of making it.
    """
    select, report = history.scores_of("select"), history.scores_of("report")
    bases = {split: history.base_on(split) for split in ("search", "select", "report")}
    edges = [*sorted(history.began_s.items()), (None, history.elapsed_s)]
    spent = {stage: end - began for (stage, began), (_, end) in pairwise(edges)}
    trials = history.all_trials
    made = [t for t in trials if t.candidate.proposed_by.kind == "made" and _stage_of(t, names) is not None]
    before_s = edges[0][1] - math.fsum(map(_seconds, made))
    making_s = math.fsum(_seconds(t) + made_s.get(t.candidate.proposed_by.name, 0.0) for t in made)
    return tuple(
        _row(
            name,
            trials,
            max(0.0, before_s if name is None else spent.get(name.number, making_s)),
            scalar,
            select,
            report,
            bases,
        )
        for name, trials in _by_stage(history, names)
    )


def _row(
    name: StageName | None,
    trials: Sequence[Trial],
    seconds: float,
    scalar: Scalar,
    select: Mapping[int, Score],
    report: Mapping[int, Score],
    bases: Mapping[str, Scores | None],
) -> StageRow:
    on_search, on_select, on_report = bases["search"], bases["select"], bases["report"]
    best = _best(trials, scalar, on_search)
    row = StageRow(
        name=name,
        num_trials=len(trials),
        seconds=seconds,
        best=None if best is None else best.number,
        search=None if best is None else scalar.of(best.score.tasks, on_search),
    )
    selected = [t for t in _measured(trials) if t.number in select and select[t.number].status is Status.OK]
    if not selected or (scalar.needs_base and on_select is None):
        return row
    on_both = pool(on_search, on_select) if on_search and on_select else None
    pooled = {t.number: scalar.of(pool(t.score.tasks, select[t.number].tasks), on_both) for t in selected}
    finalist = max(selected, key=lambda t: (-_off(t), scalar.utility(pooled[t.number]), -t.number))
    found, told = scalar.of(select[finalist.number].tasks, on_select), report.get(finalist.number)
    is_told = told is not None and told.status is Status.OK and not (scalar.needs_base and on_report is None)
    reported = scalar.of(told.tasks, on_report) if told is not None and is_told else None
    searched = scalar.of(finalist.score.tasks, on_search)
    return replace(
        row,
        finalist=finalist.number,
        select=found,
        report=reported,
        gap=scalar.improvement(searched, over=found if reported is None else reported),
    )


def _by_stage(history: History, names: Sequence[StageName]) -> Iterator[tuple[StageName | None, list[Trial]]]:
    """Yields baselines and warm starts, then the stages that have a trial; nothing in a run without stages."""
    if not names:
        return
    found = dict[int | None, list[Trial]]()
    for trial in history.all_trials:
        found.setdefault(_stage_of(trial, names), []).append(trial)
    for stage in (None, *range(len(names))):
        if stage in found:
            yield (None if stage is None else names[stage]), found[stage]


def _stage_of(trial: Trial, names: Sequence[StageName]) -> int | None:
    """Returns the number of a trial's stage; of what the run has made, that of the stage which makes it."""
    by = trial.candidate.proposed_by
    if by.kind == "optimizer":
        return trial.candidate.stage
    made = (name.number for name in names if name.label == by.name)
    return next(made, None) if by.kind == "made" else None


def _best(trials: Sequence[Trial], scalar: Scalar, base: Scores | None) -> Trial | None:
    measured = _measured(trials)
    return max(
        measured, key=lambda t: (-_off(t), scalar.utility(scalar.of(t.score.tasks, base)), -t.number), default=None
    )


def _off(trial: Trial) -> float:
    """Returns how far off the constraints a trial is on the search items."""
    return violation_of(trial.excesses)


def _measured(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.objectives is not None]


def _seconds(trial: Trial) -> float:
    return math.fsum(trial.score.cost.seconds.values())
