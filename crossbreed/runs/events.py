"""The events of a run, a report or a merge, as values. `str` of an event is its text for users.

The library prints nothing. It calls the given listener on the driver's own thread, and continues when the listener
returns; an exception in the listener ends the run, which can be resumed. `on_event=print` shows everything.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from crossbreed.runs.record.phase import Phase, duration
from crossbreed.runs.record.records import SplitName
from crossbreed.runs.results.lead import Lead
from crossbreed.runs.results.report import Report
from crossbreed.runs.results.verdict import verdict_of
from crossbreed.runs.stages.progress import StageProgress
from crossbreed.types import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDescribed:
    """The spec, sources and items are valid; no expensive step has started."""

    text: str
    """The plan and cost of the run, in a few lines."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarting:
    """A step of the run begins that may last, and that no other event names."""

    phase: Phase
    detail: str = ""
    """What is done in it, for example the file that is hashed."""

    def __str__(self) -> str:
        return f"{self.phase}{self.detail and ': '}{self.detail} ..."


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
class WorkersReady:
    """The first worker is verified and takes candidates; what was waiting for it goes on."""

    seconds: float
    """Since the engine was started."""

    def __str__(self) -> str:
        return f"the engine answers with the weights it is given; it took {self.seconds:.0f} s to start"


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
    trial_s: float | None = None
    """Seconds a trial so far, without the engine's start."""
    leads: tuple[Lead, ...] = ()
    """For each objective, the best merge that is more than a plain baseline, against the best baseline."""
    stage: StageProgress | None = None
    """The stage that the trial is of, and how far it has come; None in a run without stages, and before its first
    search."""

    def __str__(self) -> str:
        total = "" if self.num_wanted is None else f" of {self.num_wanted}"
        parts = [f"[{self.num_done}{total}]", *([str(self.stage)] if self.stage else [])]
        parts += [f"trial {self.trial.number}", str(self.trial.candidate.proposed_by)]
        parts += [_result(self.trial), *_by_task(self.trial), _best(self.best, self.leads)]
        parts += [f"{self.trial_s:.3g} s a trial"] if self.trial_s is not None else []
        parts.append("" if self.left_s is None else f"about {duration(self.left_s)} left")
        return "  ".join(parts)

    @property
    def brief(self) -> str:
        """Returns the text for a narrow terminal."""
        total = "" if self.num_wanted is None else f" of {self.num_wanted}"
        left = "" if self.left_s is None else f"about {duration(self.left_s)} left"
        at = str(self.stage) if self.stage else ""
        parts = [f"[{self.num_done}{total}]", at, _result(self.trial), _best(self.best, ()), left]
        parts += _by_task(self.trial)
        return "  ".join(filter(None, parts))


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
    PlanDescribed
    | PhaseStarting
    | Preparing
    | EngineStarting
    | WorkersReady
    | TrialDone
    | SplitStarting
    | ReportWritten
    | CheckpointWritten
    | Note
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


def _by_task(trial: Trial) -> list[str]:
    """The tasks' means, unless there is one only."""
    tasks = trial.score.tasks
    return [", ".join(f"{name} {scores.mean:.4f}" for name, scores in tasks.items())] if len(tasks) > 1 else []


def _best(best: Trial | None, leads: Sequence[Lead]) -> str:
    if best is None or best.objectives is None:
        return "nothing measured yet"
    text = f"best {' '.join(f'{value:.4f}' for value in best.objectives)} (trial {best.number})"
    for lead in leads[:1] if len(leads) == 1 else ():  # of several objectives, each has a best: `show` has them
        text += f", {lead.brief} over {lead.baseline} on search items" if lead.trial == best.number else ""
    return text
