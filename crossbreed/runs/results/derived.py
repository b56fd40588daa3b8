"""The derived files of a run folder: archive, recipes, report. All can be rebuilt from the journal."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from crossbreed.durable import write_atomically
from crossbreed.recipes import dump_recipe
from crossbreed.runs.plan import Plan
from crossbreed.runs.record.archive import pareto_front
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import History, fold
from crossbreed.runs.record.journal import Journal, read
from crossbreed.runs.record.records import PublishRecord
from crossbreed.runs.results.report import Report, report_json
from crossbreed.runs.results.report_html import report_html


def write_derived(plan: Plan, folder: RunFolder, history: History, report: Report) -> None:
    """Writes archive.json, the recipes of winner and archive, report.json and report.html."""
    front = pareto_front(history.ok_trials, plan.objectives)
    folder.write_json(folder.archive, {"schema": 1, "archive": [trial.number for trial in front]})
    folder.recipes.mkdir(exist_ok=True)
    for number in {report.winner.number, *(trial.number for trial in front)}:
        recipe = history.trials[number].recipe
        write_atomically(folder.recipes / f"{number:06d}.yaml", dump_recipe(recipe).encode())
    folder.write_json(folder.report_json, report_json(report) | {"published": _published(history)})
    page = report_html(report, trials=history.all_trials, title=plan.spec.name, structure=plan.structure)
    write_atomically(folder.report_html, page.encode())


@contextmanager
def publishing(path: Path) -> Iterator[Callable[[PublishRecord], None]]:
    """Holds a run's journal while a trial is published, so that what is written can be journalled.

    Yields:
        A function that journals the publication, and adds its folder to report.json, if there is one.

    Raises:
        InputError: a driver has the journal open.
    """
    folder = RunFolder(path)
    with closing(Journal(folder.journal)) as journal:
        yield journal.append
    shown = _read(folder.report_json)
    if shown is not None:
        folder.write_json(folder.report_json, shown | {"published": _published(fold(read(folder.journal)))})


def _read(path: Path) -> dict[str, Any] | None:
    """Returns a derived file; None if it is missing or damaged: the next report writes it anew."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _published(history: History) -> list[dict[str, Any]]:
    """Returns the published trials and their folders, newest last."""
    return [{"number": record.number, "folder": record.clock.folder} for record in history.published]
