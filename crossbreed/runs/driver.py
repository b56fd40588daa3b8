"""A run from spec to report. The same function starts, resumes or, for a finished run, returns its report."""

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path
from typing import Any

from crossbreed.errors import InputError
from crossbreed.optimizer import BudgetConfig
from crossbreed.runs.check import checked_plan
from crossbreed.runs.checking.rates import Rate, remember_rate
from crossbreed.runs.events import Listener, Note, PhaseStarting, PlanDescribed, ignore
from crossbreed.runs.objects import GivenEngine, GivenOptimizer, GivenTask, has_objects, require_sendable, with_objects
from crossbreed.runs.phases import phase_noted
from crossbreed.runs.plan import Plan, build_plan
from crossbreed.runs.plan_text import plan_text
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import History
from crossbreed.runs.record.phase import Phase, forget_phase
from crossbreed.runs.results.numbers import with_interval
from crossbreed.runs.results.report import Report
from crossbreed.runs.session import open_session
from crossbreed.runs.spec import Spec, load_spec
from crossbreed.runs.workers.start import prepare_artifacts
from crossbreed.sources.slow_reads import telling_of_slow_reads


def run(
    spec: Spec | Mapping[str, Any],
    out: str | os.PathLike[str],
    *,
    optimizer: GivenOptimizer | None = None,
    engine: GivenEngine | None = None,
    tasks: Sequence[GivenTask] | None = None,
    on_event: Listener = ignore,
) -> Report:
    """Searches until the budget is spent or the optimizer has nothing left to ask, selects the winner and reports.

    An existing run folder of the same Spec is resumed; finished work is not repeated.

    Args:
        spec: The spec, or the content of a spec file.
        out: The run folder.
        optimizer: Replaces the spec's optimizer, within its budget. See `runs.objects.with_objects` for all three.
        engine: Replaces the spec's engine; runs in this process.
        tasks: Replace the spec's tasks.
        on_event: Called with each event as it happens; `print` shows them.

    Returns:
        The report, also written to the folder.

    Raises:
        InputError: the spec or the folder is invalid.
        MachineError: no worker could be started, or nothing could be measured.
        Exception: anything else is a bug, ours or a plug-in's; log.txt has the traceback, and the run can be resumed.
    """
    spec = with_objects(spec, optimizer=optimizer, engine=engine, tasks=tasks)
    folder = RunFolder(Path(out))
    is_new = folder.create()
    spec = _with_kept_warm_starts(spec, folder)
    with folder.logging_bugs(), phase_noted(folder.path, on_event) as tell:
        try:
            with _opening(tell):
                plan = checked_plan(spec)
            tell(PlanDescribed(text=plan_text(plan)))
            plan = prepare_artifacts(plan, tell, begun=folder.begun(), kept=folder.artifacts)
        except InputError:
            if is_new:
                with suppress(OSError):  # another driver has begun in it
                    forget_phase(folder.path)
                    folder.path.rmdir()
            raise
        with open_session(plan, folder, tell) as session:
            known = len(session.history.trials)
            try:
                session.search()
            finally:
                remember_rate(plan, Rate.of(list(session.history.trials.values())[known:], plan))
            report = session.judge()
            if not has_objects(spec):
                for text in _how_to_go_on(spec, folder, session.history, is_over=report.is_over):
                    session.tell(Note(text=text))
            return report


def report_on(
    path: str | os.PathLike[str],
    *,
    trial: int | None = None,
    before: Callable[[Plan], None] = lambda plan: None,
    optimizer: GivenOptimizer | None = None,
    engine: GivenEngine | None = None,
    tasks: Sequence[GivenTask] | None = None,
    on_event: Listener = ignore,
) -> tuple[Plan, Report]:
    """Completes and writes the report of a run, without continuing its search or needing its optimizer.

    Args:
        path: A run folder.
        trial: Report on this trial instead of the winner, who need not be known; the folder's report stays as it is.
        before: Called before any evaluation; may raise.
        optimizer: As for `run`, if the run was started with one.
        engine: The same.
        tasks: The same.
        on_event: As for `run`.

    Raises:
        InputError: the folder is not a run, its sources or items have changed, or the trial has no value.
    """
    folder = RunFolder(Path(path)).existing()
    spec = with_objects(load_spec(folder.spec), optimizer=optimizer, engine=engine, tasks=tasks)
    require_sendable(spec)
    with folder.logging_bugs(), phase_noted(folder.path, on_event) as tell:
        with _opening(tell):
            plan = build_plan(spec, searches=False)
        before(plan)
        plan = prepare_artifacts(plan, tell, begun=folder.begun(), kept=folder.artifacts)
        with open_session(plan, folder, tell) as session:
            if trial is None:
                return plan, session.judge()
            report = session.report_trial(trial)
            tell(Note(text=f"trial {trial}: {with_interval(report.winner.value)} on the report items"))
            return plan, report


def _with_kept_warm_starts(spec: Spec, folder: RunFolder) -> Spec:
    """Returns the spec with the run's own copies of warm starts that are no files, or whose files are gone."""
    copies = map(folder.warm_start, range(len(spec.warm_start)))
    found = [
        str(copy) if copy.exists() and not os.path.isfile(path) else path  # no error for 300 letters
        for path, copy in zip(spec.warm_start, copies, strict=True)
    ]
    return spec.model_copy(update={"warm_start": tuple(found)})


@contextmanager
def _opening(tell: Listener) -> Iterator[None]:
    """Tells that sources are opened, and which of their files are hashed meanwhile."""

    def hashing(path: Path, num_bytes: int) -> None:
        tell(PhaseStarting(phase=Phase.HASHING, detail=f"{path.name}, {num_bytes / 1e9:.1f} GB"))

    tell(PhaseStarting(phase=Phase.SOURCES))
    with telling_of_slow_reads(hashing):
        yield


def _how_to_go_on(spec: Spec, folder: RunFolder, history: History, *, is_over: bool) -> Iterator[str]:
    """Yields the command that doubles what ended the search.

    None if the optimizer had nothing left to ask, or if it has spent the trials that it planned by.
    """
    num_trials, minutes = sum(map(history.num_measured, history.num_asked)), history.elapsed_s / 60
    reached, last = dict[str, int](), spec.searches[-1] if spec.searches else None
    if last is not None and not spec.stages:
        if spec.limits.trials and num_trials >= spec.limits.trials and last.optimizer.reads_budget:
            return
        reached = _doubled("optimizer.budget", spec.limits, num_trials, minutes, is_over=is_over)
    elif last is not None:
        reached = _doubled("budget", spec.limits, num_trials, minutes, is_over=is_over)
        if history.stage == last.number and not last.optimizer.reads_budget:
            own_minutes = minutes - history.began_s[last.number] / 60
            num_own = history.num_measured(last.number)
            reached |= _doubled(f"stages.{last.number}.budget", last.own, num_own, own_minutes, is_over=is_over)
    if reached:
        paths = f"{shlex.quote(str(folder.spec))} --out {shlex.quote(str(folder.path))}"
        limits = " ".join(f"--set {key}={limit}" for key, limit in reached.items())
        yield f"to go on with more trials: crossbreed run {paths} {limits}"


def _doubled(at: str, budget: BudgetConfig, num_trials: int, minutes: float, *, is_over: bool) -> dict[str, int]:
    """Returns the limits of a budget that were reached, each doubled: dotted key -> value."""
    reached = dict[str, int]()
    if budget.trials and num_trials >= budget.trials:
        reached[f"{at}.trials"] = 2 * num_trials
    if budget.minutes is not None and (minutes >= budget.minutes or not (reached or is_over)):  # or in between trials
        reached[f"{at}.minutes"] = ceil(2 * max(minutes, budget.minutes))
    return reached
