"""The derived files of a run folder: archive, recipes, report. All can be rebuilt from the journal."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from crossbreed.durable import write_atomically
from crossbreed.recipes import dump_recipe
from crossbreed.runs.page.data import frozen_data
from crossbreed.runs.page.html import page_html, report_markup
from crossbreed.runs.plan import Plan
from crossbreed.runs.record.archive import pareto_front
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import History, fold
from crossbreed.runs.record.journal import Journal, read
from crossbreed.runs.record.records import PublishRecord
from crossbreed.runs.record.worker_counts import forgetting_counts
from crossbreed.runs.results.answers import Questions
from crossbreed.runs.results.report import Report, report_json
from crossbreed.runs.results.report_text import words_json
from crossbreed.runs.results.show import Run
from crossbreed.runs.results.vouching import takes_of


def write_derived(plan: Plan, folder: RunFolder, history: History, report: Report) -> None:
    """Writes archive.json, the recipes of winner and archive, report.json and report.html."""
    objectives = history.bound(plan.objectives)
    front = pareto_front(history.ok_trials, objectives)
    folder.write_json(folder.archive, {"schema": 1, "archive": [trial.number for trial in front]})
    folder.recipes.mkdir(exist_ok=True)
    for number in {report.winner.number, *(trial.number for trial in front)}:
        recipe = history.trials[number].recipe
        write_atomically(folder.recipes / f"{number:06d}.yaml", dump_recipe(recipe).encode())
    told = report_json(report) | words_json(report) | {"published": _published(history)}
    folder.write_json(folder.report_json, told)
    run = Run(
        folder=folder,
        name=plan.spec.name,
        takes=takes_of(plan.spec.fitness.engine),
        history=history,
        objectives=objectives,
        constraints=plan.criteria.constraints,
        minimized=plan.spec.fitness.minimized,
        stages=plan.stage_names,
        state="finished" if report.is_over else "interrupted",
        workers=None,
    )
    begun, questions = folder.begun(), Questions(plan.tasks)
    data = frozen_data(run, begun=begun, report=told, questions=questions, structure=plan.structure)
    write_atomically(folder.report_html, page_html(data, text=report_markup(report)).encode())


@contextmanager
def publishing(path: Path) -> Iterator[Callable[[PublishRecord], None]]:
    """Holds a run's journal while a trial is published, so that what is written can be journalled.

    Yields:
        A function that journals the publication, and adds its folder to report.json, if there is one.

    Raises:
        InputError: a driver has the journal open.
    """
    folder = RunFolder(path)
    with closing(Journal(folder.journal)) as journal, forgetting_counts(path):
        yield journal.append
    shown = folder.read_json(folder.report_json)
    if shown is not None:
        folder.write_json(folder.report_json, shown | {"published": _published(fold(read(folder.journal)))})


def _published(history: History) -> list[dict[str, Any]]:
    """Returns the published trials and their folders, newest last."""
    return [{"number": record.number, "folder": record.clock.folder} for record in history.published]
