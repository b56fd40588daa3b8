"""`crossbreed show`: a run folder as text, or as documented JSON for scripts. Needs neither engine nor sources."""

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeAlias

from crossbreed.constraints import violation_of
from crossbreed.errors import InputError, excerpt, printable
from crossbreed.fitness.engines.registry import Takes
from crossbreed.parsing import counted
from crossbreed.recipes import dump_recipe
from crossbreed.runs.record.archive import best_trial, pareto_front, rank
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.followed import FollowedRun
from crossbreed.runs.record.history import History
from crossbreed.runs.record.lock import is_locked
from crossbreed.runs.record.phase import PhaseNote, read_phase
from crossbreed.runs.record.records import SplitName
from crossbreed.runs.record.uncollected import uncollected
from crossbreed.runs.record.worker_counts import WorkerCounts, read_counts
from crossbreed.runs.results.answers import AnswerRow, Questions, answer_rows, questions_in, rows_text
from crossbreed.runs.results.front import front_progress
from crossbreed.runs.results.header import Header, read_header
from crossbreed.runs.results.judging import judged_in
from crossbreed.runs.results.live import Outlook, opening, outlook_of, phase_json, phase_line
from crossbreed.runs.results.trial_table import fitted, trial_table
from crossbreed.runs.results.vouching import Vouching, vouching_of
from crossbreed.runs.search.pool import NO_SLOPES
from crossbreed.runs.spec.constraints import Constraint
from crossbreed.runs.spec.criteria import lengths_in
from crossbreed.runs.spec.objectives import Objective
from crossbreed.runs.stages.naming import StageName
from crossbreed.runs.stages.table import StageRow, stage_rows
from crossbreed.types import Status, Trial

State: TypeAlias = Literal["running", "interrupted", "finished"]
SPLITS: tuple[SplitName, ...] = ("search", "select", "report")
PHASES = ("materialize", "swap", "answer", "slopes", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The content of a run folder."""

    folder: RunFolder
    name: str
    """As its spec has it."""
    takes: Takes | None
    """What its engine is given; None where the engine is not installed."""
    history: History
    objectives: tuple[Objective, ...]
    """Bound to the baselines, where they are relative to them."""
    minimized: Mapping[str, bool]
    """Task -> whether less of its metric is better."""
    state: State
    workers: WorkerCounts | None
    """Of the driver that is running; None if none is, or it needs none yet."""
    constraints: tuple[Constraint, ...] = ()
    stages: tuple[StageName, ...] = ()
    """The names of its stages; none of a run without a list of them."""
    is_of_program: bool = False
    """Whether parts of it are objects of a Python program, without which no command goes on with it."""
    phase: PhaseNote | None = None
    """What that driver does at the moment."""
    outlook: Outlook | None = None
    """What can be said of the rest, where that was asked for."""

    @property
    def trials(self) -> list[Trial]:
        """The search's trials, by number."""
        return self.history.all_trials

    @property
    def lengths(self) -> tuple[str, ...]:
        """The tasks of which the length of answers is measured."""
        return lengths_in((*self.objectives, *self.constraints))

    @property
    def stage_rows(self) -> tuple[StageRow, ...]:
        """What each stage gave so far; making a regression is not in its seconds."""
        if not self.stages:
            return ()
        from crossbreed.runs.results.winner import search_scalar  # imports what others do without

        return stage_rows(self.history, self.stages, search_scalar(self.history.ok_trials, self.objectives))


def open_run(path: Path, *, with_recipes: bool = True) -> Run:
    """Reads a run folder. The packages that brought its parts need not be installed.

    Args:
        path: The run folder.
        with_recipes: False leaves out every recipe, which takes longer to read than all else.

    Raises:
        InputError: it is none, its journal is damaged, or it has no report yet and a task that tells which values are
            better is not installed.
    """
    folder = RunFolder(path).existing()
    followed = FollowedRun(folder.journal, with_recipes=with_recipes)
    followed.catch_up()
    known = read_header(folder, followed.begun)
    return run_of(folder, known, followed.history, outlook=outlook_of(followed, known, goes_on=is_driven(folder)))


def is_driven(folder: RunFolder) -> bool:
    """Returns whether a driver runs, which opens its sources before it locks the journal."""
    return is_locked(folder.journal) or read_phase(folder.path) is not None


def run_of(folder: RunFolder, known: Header, history: History, *, outlook: Outlook | None = None) -> Run:
    """Returns a run of which spec and journal have been read."""
    history.measure_by(known.criteria)
    has_journal, phase = is_locked(folder.journal), read_phase(folder.path)
    is_running = has_journal or phase is not None
    state: State = "running" if is_running else "finished" if history.is_finished else "interrupted"
    return Run(
        folder=folder,
        name=known.name,
        takes=known.takes,
        stages=known.stages,
        history=history,
        objectives=history.bound(known.objectives),
        constraints=known.constraints,
        minimized=known.minimized,
        state=state,
        is_of_program=known.is_of_program,
        workers=read_counts(folder.path) if has_journal else None,
        phase=phase,
        outlook=outlook,
    )


def show_json(path: Path) -> dict[str, Any]:
    """Returns the documented output of `show --json`."""
    if note := opening(path):
        nothing: dict[str, Any] = {"objectives": [], "stages": [], "trials": [], "best": [], "archive": []}
        return {"schema": 1, "name": path.name, "state": "running", "phase": phase_json(note), **nothing}
    run = open_run(path)
    ok = run.history.ok_trials
    best = best_trial(ok, run.objectives)
    return {
        "schema": 1,
        "name": run.name,
        "state": run.state,
        "workers": run.workers.to_json() if run.workers else None,
        "phase": phase_json(run.phase),
        **(run.outlook.to_json() if run.outlook else {}),
        "objectives": [{"name": o.name, "minimize": o.minimize} for o in run.objectives],
        "constraints": [constraint.name for constraint in run.constraints],
        "stages": [row.to_json() for row in run.stage_rows],
        "trials": [_trial_json(trial, run.takes) for trial in run.trials],
        "best": [best.number] if best else [],
        "archive": [trial.number for trial in pareto_front(ok, run.objectives)],
        "front": (grown := front_progress(ok, run.objectives)) and grown.to_json(),
        "seconds_by_phase": seconds_by_phase(ok),
        "counts": {status.value: sum(t.score.status is status for t in run.trials) for status in Status},
    }


def show_text(path: Path, *, width: int | None = None) -> str:
    """Returns the run as text: state, baselines, the best trials, time by phase.

    Args:
        path: The run folder.
        width: Characters of a line; None: any number.
    """
    if note := opening(path):
        return "\n".join(fitted([f"{path.name}: running, {phase_line(note)}; no trial yet"], width=width))
    with uncollected():
        return text_of(open_run(path, with_recipes=False), width=width)


def text_of(run: Run, *, width: int | None = None) -> str:
    """Returns what `show_text` does, of a run that has been read."""
    ok = run.history.ok_trials
    front = {trial.number for trial in pareto_front(ok, run.objectives)}
    ranked = sorted(ok, key=lambda t: rank(t, run.objectives) if t.objectives else (-math.inf,), reverse=True)
    shown = {t.number for t in ranked[:10]} | front | {t.number for t in ok if t.candidate.proposed_by.is_baseline}
    failed = [t for t in run.trials if t.score.status is Status.FAILED]
    no_slopes = sum((t.score.error or "").startswith(NO_SLOPES) for t in ok)
    last_s = max(0.0, time.time() - run.folder.journal.stat().st_mtime)  # a clock may go back
    lines = [
        f"{run.name}: {run.state}, {counted(len(run.trials), 'trial')}"
        + (f", last record {last_s:.0f} s ago" if run.state == "running" else "")
        + (f", {len(failed)} FAILED (not measured)" if failed else "")
        + (f", {no_slopes} without slopes (scored, but without a gradient)" if no_slopes else ""),
        *([phase_line(run.phase, run.outlook)] if run.phase else []),
        *([str(run.workers)] if run.workers else []),
        *(f"trial {t.number} FAILED: {excerpt(t.score.error or '', at_most=300)}" for t in failed[-1:]),
        *([f"to go on: {_how_to_go_on(run)}"] if run.state == "interrupted" else []),
        *(run.outlook.sentences if run.outlook else []),
    ]
    lines = fitted(list(map(printable, lines)), width=width)
    if not ok:
        return "\n".join(lines)
    lines += trial_table([t for t in ranked if t.number in shown], run.objectives, marked=front, width=width)
    below = list[str]()
    if left_out := len(run.trials) - sum(t.number in shown for t in ranked):
        below.append(f"{left_out} more: --json, or --trial N")
    phases = seconds_by_phase(ok)
    total = sum(phases.values()) or 1.0
    if run.stages:
        from crossbreed.runs.stages.text import stage_lines  # imports what others do without

        below += stage_lines(run.stage_rows)
    below.append("* " + ("best so far" if len(run.objectives) == 1 else "on the Pareto front"))
    below += grown.lines() if (grown := front_progress(ok, run.objectives)) else []
    below += constraint_lines(run, ok)
    spent = (f"{name} {s:.2f} s ({s / total:.0%})" for name, s in phases.items() if s or name != "slopes")
    below.append("time per trial: " + ", ".join(spent))
    below += [f"judge: {judged.said(task)}" for task, judged in judged_in(t.score.tasks for t in ok).items()]
    vouchings = {vouching for trial in ok if (vouching := vouching_of(trial.score, run.takes))}
    below += [f"weights: {vouching}" for vouching in sorted(vouchings - {Vouching.FINGERPRINTED})]
    return "\n".join([*lines, *fitted(below, width=width)])


def constraint_lines(run: Run, ok: Sequence[Trial]) -> list[str]:
    """Returns how many trials keep each constraint on the search items."""
    if not run.constraints:
        return []
    known = [trial.excesses for trial in ok if trial.excesses is not None]
    keep, of = sum(not violation_of(excesses) for excesses in known), f"of {len(known)} trials"
    counts = [sum(excesses[index] <= 0 for excesses in known) for index in range(len(run.constraints))]
    return [
        *(f"kept by {count or 'none'} {of}: {one.name}" for count, one in zip(counts, run.constraints, strict=True)),
        f"{keep or 'none'} {of} keep{'s' * (keep == 1)} all constraints on the search items; ! breaks one",
    ]


def _how_to_go_on(run: Run) -> str:
    if run.is_of_program:
        return "call crossbreed.run with the same objects and this folder"
    return f"crossbreed run {shlex.quote(str(run.folder.spec))} --out {shlex.quote(str(run.folder.path))}"


def show_trial(path: Path, number: int, *, answers: bool, only_wrong: bool = False) -> str:
    """Returns one trial in full: scores, recipe and, on request, its answers."""
    run = open_run(path)
    if number not in run.history.trials:
        raise _no_trial(run, number)
    trial = run.history.trials[number]
    lines = [*_trial_lines(trial, run), "", *_recipe_lines(trial)]
    if answers:
        questions = questions_in(run.folder, run.folder.begun())
        for split in SPLITS:
            if rows := trial_answers(run, split, [number], questions):
                lines += ["", f"{split} items", *rows_text(rows, only_wrong=only_wrong)]
    return "\n".join(lines)


def _no_trial(run: Run, number: int) -> InputError:
    is_asked = number in run.history.candidates
    return InputError(
        f"trial {number} has not been answered yet" if is_asked else f"the run has no trial {number}",
        expected=f"0 to {max(run.history.trials)}" if run.history.trials else "a run with a trial: it has none yet",
        where=str(run.folder.path),
    )


def trial_answers(run: Run, split: SplitName, numbers: Sequence[int], questions: Questions) -> list[AnswerRow]:
    """Returns the answers of trials to a split's items; see `answer_rows`."""
    return answer_rows(run.folder, run.history, run.minimized, split=split, numbers=numbers, questions=questions)


def _trial_lines(trial: Trial, run: Run) -> list[str]:
    score = trial.score
    named = {o.name: value for o, value in zip(run.objectives, trial.objectives or (), strict=False)}
    in_order = dict.fromkeys((*run.minimized, *score.tasks))  # the spec's: a journal's keys are sorted
    named |= {task: score.tasks[task].mean for task in in_order if task in score.tasks}
    width = max(map(len, named), default=0)
    spent = ", ".join(f"{phase} {s:.2f} s" for phase in PHASES if (s := score.cost.seconds.get(phase, 0.0)))
    facts = {
        "error": score.error or "",
        "judge": "; ".join(judged.said(task) for task, judged in judged_in([score.tasks]).items()),
        "cost": f"{score.cost.items} items, {score.cost.tokens} tokens" + (f"; {spent}" if spent else ""),
        "weights": " ".join(filter(None, (score.fingerprint, vouching_of(score, run.takes)))),
    }
    return [
        f"trial {trial.number}  {trial.candidate.proposed_by}  {score.status.value}",
        *(printable(f"  {told}") for told in _kept(trial, run)),
        *(printable(f"  {name:<{width}}  {value:.4f}") for name, value in named.items()),
        *(printable(f"  {name}: {fact}") for name, fact in facts.items() if fact),
    ]


def _kept(trial: Trial, run: Run) -> list[str]:
    """Returns whether a trial keeps each constraint on the search items."""
    pairs = zip(run.constraints, trial.excesses or (), strict=False)
    return [f"{'keeps' if excess <= 0 else 'BREAKS'}: {constraint.name}" for constraint, excess in pairs]


def _recipe_lines(trial: Trial) -> list[str]:
    if trial.candidate.recipe is None:
        return ["no recipe: an array that its birth describes"]
    return [f"recipe {trial.recipe.id}", dump_recipe(trial.recipe).rstrip("\n")]


def seconds_by_phase(trials: list[Trial]) -> dict[str, float]:
    """Returns the mean seconds per trial in each phase."""
    if not trials:
        return {}
    return {phase: fmean(trial.score.cost.seconds.get(phase, 0.0) for trial in trials) for phase in PHASES}


def _trial_json(trial: Trial, takes: Takes | None) -> dict[str, Any]:
    score = trial.score
    seconds: Mapping[str, float] = score.cost.seconds
    return {
        "number": trial.number,
        "origin": str(trial.candidate.proposed_by),
        "stage": trial.candidate.stage,
        "status": score.status.value,
        "recipe": trial.candidate.recipe and trial.candidate.recipe.to_json(),
        "tasks": {name: scores.mean for name, scores in score.tasks.items()},
        "objectives": None if trial.objectives is None else list(trial.objectives),
        "keeps_constraints": None
        if trial.excesses is None or trial.objectives is None
        else not violation_of(trial.excesses),
        "excesses": None if trial.excesses is None else list(trial.excesses),
        "items": score.cost.items,
        "tokens": score.cost.tokens,
        "seconds": {phase: seconds.get(phase, 0.0) for phase in PHASES},
        "fingerprint": score.fingerprint,
        "weights": vouching_of(score, takes),
        "judged": {task: judged.to_json() for task, judged in judged_in([score.tasks]).items()},
        "error": score.error,
    }
