"""The events of a run, a report or a merge, as values. `str` of an event is its text for users.

The library prints nothing. It calls the given listener on the driver's own thread, and continues when the listener
returns; an exception in the listener ends the run, which can be resumed. `on_event=print` shows everything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from crossbreed.runs.record.records import SplitName
from crossbreed.runs.results.report import Report
from crossbreed.runs.results.verdict import verdict_of
from crossbreed.types import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDescribed:
    """The spec, sources and items are valid; no expensive step has started."""

    text: str
    """The plan and cost of the run, in a few lines."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparing:
    """An artifact that is not in the machine's cache is being made."""

    what: str
    """The artifact, for example `Grams of sums, french`."""
    folder: Path
    """The folder in which it is stored."""

    def __str__(self) -> str:
        return f"collecting {self.what} into {self.folder} ..."


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStarting:
    """The first candidate waits for the workers."""

    executor: Literal["ray", "local"]

    def __str__(self) -> str:
        return f"starting {'Ray and ' if self.executor == 'ray' else ''}the engine ..."


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialDone:
    """A candidate of the search has been scored, and its score is in the journal."""

    trial: Trial
    num_done: int
    """Trials so far, including this one."""
    num_wanted: int | None
    """Trials of the whole search; None if its budget is in minutes only."""
    best: Trial | None
    """The best so far; None if nothing could be measured yet."""
    left_s: float | None
    """Estimated seconds to the end of the search."""

    def __str__(self) -> str:
        total = "" if self.num_wanted is None else f" of {self.num_wanted}"
        parts = [f"[{self.num_done}{total}]", f"trial {self.trial.number}", str(self.trial.candidate.proposed_by)]
        return "  ".join([*parts, _result(self.trial), _best(self.best), _time_left(self.left_s)])


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitStarting:
    """Models are about to be scored on the selection or the report items."""

    split: SplitName
    num_models: int
    num_items: int
    """Items per model, over all tasks."""

    def __str__(self) -> str:
        return f"{self.split}: {self.num_models} models answer {self.num_items} items each ..."


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportWritten:
    """The winner is selected and measured; report.html and report.json are in the run folder."""

    report: Report
    path: Path
    """The path of report.html."""

    def __str__(self) -> str:
        return f"{verdict_of(self.report)}\nreport: {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWritten:
    """A checkpoint has been written, read back and verified."""

    folder: Path
    fingerprint: str
    trial: int | None = None
    """The published trial; None for a merge of a recipe."""

    def __str__(self) -> str:
        if self.trial is None:
            return f"wrote {self.folder}, fingerprint {self.fingerprint}"
        return f"published trial {self.trial} to {self.folder}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Any other information for the user."""

    text: str

    def __str__(self) -> str:
        return self.text


Event: TypeAlias = (
    PlanDescribed | Preparing | EngineStarting | TrialDone | SplitStarting | ReportWritten | CheckpointWritten | Note
)
Listener: TypeAlias = Callable[[Event], None]
"""Called with each event."""


def ignore(event: Event) -> None:
    """The default listener, which does nothing."""


def _result(trial: Trial) -> str:
    if trial.objectives is None:
        return f"{trial.score.status.value}: {trial.score.error}"
    values = " ".join(f"{value:.4f}" for value in trial.objectives)
    return f"{values} ({trial.score.error})" if trial.score.error else values


def _best(best: Trial | None) -> str:
    if best is None or best.objectives is None:
        return "nothing measured yet"
    return f"best {' '.join(f'{value:.4f}' for value in best.objectives)} (trial {best.number})"


def _time_left(left_s: float | None) -> str:
    if left_s is None:
        return ""
    minutes, seconds = divmod(max(0, round(left_s)), 60)
    return f"about {minutes}:{seconds:02d} left"
