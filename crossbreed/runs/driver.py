"""A run from spec to report. The same function starts one, goes on with one, and finds that one is finished."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from crossbreed.durable import write_atomically
from crossbreed.errors import InputError
from crossbreed.recipes import dump_recipe
from crossbreed.runs.archive import pareto_front
from crossbreed.runs.artifacts import prepared
from crossbreed.runs.folder import RunFolder
from crossbreed.runs.history import History, SplitName, fold
from crossbreed.runs.journal import CLOCK, Journal, Record, read
from crossbreed.runs.loop import Loop
from crossbreed.runs.plan import Plan, build_plan, check_same_run
from crossbreed.runs.pool import Evaluator, LazyPool, LocalPool, Pool
from crossbreed.runs.progress import Progress
from crossbreed.runs.ray_pool import RayPool
from crossbreed.runs.report import Report, make_report, report_json
from crossbreed.runs.report_html import report_html
from crossbreed.runs.report_text import summary
from crossbreed.runs.selection import choose_winner, finalists, reported
from crossbreed.runs.spec import Spec, dump_spec, load_spec
from crossbreed.runs.worker import Worker
from crossbreed.types import Trial


def run(spec: Spec, out: str | os.PathLike[str]) -> Report:
    """Searches until the budget is spent, picks the winner, reports.

    An existing run folder of the same Spec is gone on with; what is done is not done again.

    Args:
        spec: What to run.
        out: The run folder.

    Returns:
        The report, also written to the folder.

    Raises:
        InputError: the spec or the folder is wrong.
        MachineError: no worker could be started, or nothing could be measured.
    """
    folder = RunFolder(Path(out))
    is_new = folder.create()
    try:
        plan = build_plan(spec)
        plan.check_lengths()
        print(plan.describe(), flush=True)
        plan = prepared(plan)
    except InputError:
        if is_new:
            folder.path.rmdir()
        raise
    with _open(plan, folder) as (loop, history, progress), _pool(plan) as pool:
        if not loop.search(pool):
            progress.note("the search ends before its budget: too little could be measured for the optimizer to go on")
        return _judge(plan, folder, loop, history, pool, progress)


def report_on(
    path: Path, *, trial: int | None = None, before: Callable[[Plan], None] = lambda plan: None
) -> tuple[Plan, Report]:
    """Answers what a run's report still needs, without searching on, and writes it.

    Args:
        path: A run folder.
        trial: Report on this trial instead of the winner; the folder's report stays the winner's.
        before: Called before anything is answered; may refuse.

    Raises:
        InputError: the folder is no run, its sources or items have changed, or the trial has no value.
    """
    folder = RunFolder(path).existing()
    plan = build_plan(load_spec(folder.spec))
    before(plan)
    plan = prepared(plan)
    with _open(plan, folder) as (loop, history, progress), _pool(plan) as pool:
        found = _judge(plan, folder, loop, history, pool, progress)
        if trial is None or trial == found.winner.number:
            return plan, found
        if trial not in {t.number for t in history.ok_trials}:
            raise InputError(
                f"trial {trial} cannot be published",
                expected="a trial whose status is OK",
                got=history.trials[trial].score.status.value if trial in history.trials else "no such trial",
                where=str(path),
            )
        loop.answer("report", [history.trials[trial]], pool)
        loop.end()
        return plan, _make_report(plan, loop, history, trial)


@contextmanager
def _open(plan: Plan, folder: RunFolder) -> Iterator[tuple[Loop, History, Progress]]:
    """The journal, locked and replayed."""
    journal = Journal(folder.journal)
    proposer = plan.proposer()
    progress = Progress(objectives=plan.objectives, budget=plan.budget, num_firsts=proposer.num_firsts, log=folder.log)
    try:
        planned = plan.run_record()
        if journal.records:
            check_same_run(journal.records[0], planned, where=folder.path)
        else:
            journal.append(planned)
        write_atomically(folder.spec, dump_spec(plan.spec).encode())
        history = History(item_ids=plan.item_ids)
        loop = Loop(
            journal=journal,
            history=history,
            proposer=proposer,
            objectives=plan.objectives,
            budget=plan.budget,
            keep_answers=folder.keep_answers,
            watch=progress,
        )
        loop.replay(journal.records[1:])
        yield loop, history, progress
    finally:
        progress.close()
        journal.close()


@contextmanager
def _pool(plan: Plan) -> Iterator[Pool]:
    pool = LazyPool(partial(_start_pool, plan))
    try:
        yield pool
    finally:
        pool.close()


def _start_pool(plan: Plan) -> Pool:
    """Starts what the Spec says; a worker proves its swap before it is given a job."""
    workers = plan.spec.workers
    print(f"starting {'Ray and ' if workers.executor == 'ray' else ''}the engine ...", flush=True)
    make = partial(_start_worker, plan.spec, plan.run_record())
    if workers.executor == "local":
        return LocalPool(make, retries=workers.retries)
    return RayPool(
        make,
        count=None if workers.count == "auto" else workers.count,
        cpus=workers.cpus,
        gpus=workers.gpus,
        address=workers.address,
        retries=workers.retries,
    )


def _start_worker(spec: Spec, planned: Record) -> Evaluator:
    """Builds the plan anew; refuses files that changed since the driver read them, or are others on this machine."""
    plan = prepared(build_plan(spec))
    check_same_run(planned, plan.run_record(), where=Path(plan.sources.base.path))
    worker = Worker(plan)
    worker.canary()
    return worker


def _judge(plan: Plan, folder: RunFolder, loop: Loop, history: History, pool: Pool, progress: Progress) -> Report:
    """Selection split, winner, report split, derived files."""

    def answer(split: SplitName, wanted: Sequence[Trial]) -> None:
        if num_models := len(loop.missing(split, wanted)):
            num_items = sum(len(ids) for ids in plan.item_ids[split].values())
            progress.note(f"{split}: {num_models} models answer {num_items} items each ...")
        loop.answer(split, wanted, pool)

    trials = history.ok_trials
    answer("select", finalists(trials, plan.objectives))
    winner = choose_winner(trials, plan.objectives, history.scores_of("select"))
    answer("report", reported(trials, plan.objectives, winner.number))
    loop.end()
    progress.close()
    found = _make_report(plan, loop, history, winner.number)
    _write_derived(plan, folder, history, found)
    return found


def _make_report(plan: Plan, loop: Loop, history: History, winner: int) -> Report:
    return make_report(
        trials=sorted(history.trials.values(), key=lambda t: t.number),
        winner=winner,
        scores=history.scores_of("report"),
        objectives=plan.objectives,
        seed=plan.spec.seed,
        is_over=loop.is_over,
    )


def note_published(path: Path, number: int, fingerprint: str, target: Path) -> None:
    """Journals that a trial was published, and names the folder in report.json."""
    folder = RunFolder(path)
    journal = Journal(folder.journal)
    try:
        journal.append(
            {"kind": "publish", "number": number, "fingerprint": fingerprint, CLOCK: {"folder": str(target.resolve())}}
        )
    finally:
        journal.close()
    shown = json.loads(folder.report_json.read_text())
    folder.write_json(folder.report_json, shown | {"published": _published(fold(read(folder.journal)))})


def _published(history: History) -> list[dict[str, Any]]:
    """The folders that were published, newest last."""
    return [{"number": r["number"], "folder": r[CLOCK]["folder"]} for r in history.published]


def _write_derived(plan: Plan, folder: RunFolder, history: History, found: Report) -> None:
    """Everything here can be rebuilt from the journal."""
    front = pareto_front(history.ok_trials, plan.objectives)
    folder.write_json(folder.archive, {"schema": 1, "archive": [trial.number for trial in front]})
    folder.recipes.mkdir(exist_ok=True)
    for number in {found.winner.number, *(trial.number for trial in front)}:
        recipe = history.trials[number].recipe
        write_atomically(folder.recipes / f"{number:06d}.yaml", dump_recipe(recipe).encode())
    folder.write_json(folder.report_json, report_json(found) | {"published": _published(history)})
    all_trials = sorted(history.trials.values(), key=lambda t: t.number)
    page = report_html(found, trials=all_trials, title=plan.spec.name, structure=plan.sources.structure)
    write_atomically(folder.report_html, page.encode())
    Console().print(summary(found))
    print(f"\nreport: {folder.report_html}")
