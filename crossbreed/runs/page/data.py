"""The one document of data that the page draws: a run as JSON, whole or only what was scored since.

Everything in it comes from strangers: names, answers, error messages. It is data, which the page shows as text.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossbreed.runs.record.archive import best_trial, pareto_front
from crossbreed.runs.record.records import RunRecord, SplitName
from crossbreed.runs.results.answers import AnswerRow, Questions
from crossbreed.runs.results.recipe_table import coefficient_map
from crossbreed.runs.results.show import PHASES, Run, constraint_lines, seconds_by_phase, trial_answers
from crossbreed.sources.structure import Structure
from crossbreed.types import Status, Trial

PAGE_SCHEMA = 1
LOG_BYTES = 16_384
MOST_EXAMPLES = 300
"""Rows of answers in a frozen page."""
MOST_FROZEN = 40
"""Trials of the front whose recipes are in a frozen page."""
_MOST_CHARACTERS = 1500
"""Of a text in a frozen page."""
_START = r"(?<![\w./\\])(?:~?/(?!/)|[A-Za-z]:[\\/]|\\\\|file://)"
_PATH = re.compile(rf"(?<=(['\"`])){_START}.*?(?=\1)|{_START}[^\s/\\]*[/\\][^\s'\"`,;:()]*")
"""An absolute path in a message, on Linux or Windows; in quotes, its spaces too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What all trials together give. It changes only when one is scored."""

    best: Trial | None
    front: tuple[int, ...]
    """The numbers of the Pareto front; empty with one objective."""
    seconds: Mapping[str, float]
    """Phase -> mean seconds a trial."""

    @classmethod
    def of(cls, run: Run) -> "Summary":
        """Looks through all trials."""
        ok = run.history.ok_trials
        front = pareto_front(ok, run.objectives) if len(run.objectives) > 1 else []
        return cls(
            best=best_trial(ok, run.objectives),
            front=tuple(trial.number for trial in front),
            seconds=seconds_by_phase(ok),
        )


def live_data(
    run: Run,
    summary: Summary,
    *,
    begun: RunRecord | None,
    told: Sequence[int],
    since: int,
    structure: Structure | None,
) -> dict[str, Any]:
    """Returns what a page needs that knows the first trials.

    Args:
        run: The run.
        summary: Of its trials.
        begun: The journal's first record.
        told: Numbers of the trials in the order in which they were scored.
        since: How many of them the page knows; more than there are: it knows those of another journal.
        structure: The sources' structure, which names groups of tensors; None if it is not known.
    """
    since = since if 0 <= since <= len(told) else 0
    best = summary.best
    return {
        "live": True,
        **_head(run, summary, begun, told),
        "folder": str(run.folder.path.resolve()),
        "since": since,
        "trials": _columns(run, [run.history.trials[number] for number in dict.fromkeys(told[since:])]),
        "report": run.folder.read_json(run.folder.report_json),
        "shown": [trial_data(run, best.number, structure)] if best else [],
        "answers": None,
        "log": run.folder.log_tail(LOG_BYTES),
    }


def frozen_data(
    run: Run, *, begun: RunRecord | None, report: Mapping[str, Any], questions: Questions, structure: Structure | None
) -> dict[str, Any]:
    """Returns the data of a page that stands alone: without the log, which names folders of this machine.

    Args:
        run: The run.
        begun: The journal's first record.
        report: The content of report.json.
        questions: What its items ask.
        structure: As for `live_data`.
    """
    told = [trial.number for trial in run.trials]
    head = _head(run, Summary.of(run), begun, told)
    best = [head["best"]] if head["best"] is not None else []
    numbers = dict.fromkeys([report["winner"]["number"], *best, *head["front"][:MOST_FROZEN]])
    return {
        "live": False,
        **head,
        "since": 0,
        "trials": _columns(run, run.trials) | {"odd": _odd(run.trials, say=_public)},
        "settings": {key: _without_folder(text) for key, text in head["settings"].items()},
        "report": dict(report) | _public_texts(report),
        "shown": [trial_data(run, number, structure) for number in numbers],
        "answers": _examples(run, report, questions),
        "log": [],
    }


def trial_data(run: Run, number: int, structure: Structure | None) -> dict[str, Any]:
    """Returns one trial with its coefficients."""
    trial = run.history.trials[number]
    recipe = trial.candidate.recipe
    found = coefficient_map(recipe, structure) if recipe else None
    return {
        "number": number,
        "recipe": recipe and recipe.id,
        "fingerprint": trial.score.fingerprint,
        "items": trial.score.cost.items,
        "tokens": trial.score.cost.tokens,
        "seconds": {phase: trial.score.cost.seconds.get(phase, 0.0) for phase in PHASES},
        "splits": [split for split in run.history.item_ids if (split, number) in run.history.scores],
        "table": found
        and {
            "groups": list(found.groups),
            "operators": list(found.operators),
            "sources": list(found.sources),
            "values": {param: [list(row) for row in rows] for param, rows in found.values.items()},
            "settings": {param: list(column) for param, column in found.settings.items()},
        },
    }


def answers_data(run: Run, split: SplitName, numbers: Sequence[int], questions: Questions) -> dict[str, Any]:
    """Returns the answers of trials to a split's items, side by side."""
    rows = trial_answers(run, split, numbers, questions)
    return {"split": split, "trials": list(numbers), "rows": [row.to_json() for row in rows], "left_out": 0}


def _head(run: Run, summary: Summary, begun: RunRecord | None, told: Sequence[int]) -> dict[str, Any]:
    history = run.history
    return {
        "schema": PAGE_SCHEMA,
        "name": run.name,
        "state": run.state,
        "objectives": [{"name": o.name, "minimize": o.minimize, "tasks": list(o.tasks)} for o in run.objectives],
        "tasks": _tasks(run),
        "items": {split: history.num_items(split) for split in history.item_ids},
        "told": len(told),
        "asked": len(history.candidates),
        "wanted": run.outlook and run.outlook.num_wanted,
        "trial_s": run.outlook and run.outlook.trial_s,
        "left_s": run.outlook and run.outlook.left_s,
        "stage": run.outlook and run.outlook.stage and run.outlook.stage.following,
        "constraints": constraint_lines(run, history.ok_trials),
        "stages": [row.to_json() for row in run.stage_rows],
        "failed": len(history.failed),
        "workers": str(run.workers) if run.workers else None,
        "elapsed_s": history.elapsed_s,
        "seconds": dict(summary.seconds),
        "best": summary.best and summary.best.number,
        "front": list(summary.front),
        "publish": None if run.is_of_program else " --as adapter" if run.takes == "adapter" else "",
        "settings": dict(_flat("", begun.spec)) if begun else {},
        "sources": dict(begun.sources) if begun else {},
        "versions": dict(begun.clock.versions) if begun else {},
    }


def _tasks(run: Run) -> list[str]:
    """Returns the tasks in the order of the objectives; a journal's keys are sorted."""
    read = (task for measure in (*run.objectives, *run.constraints) for task in measure.tasks)
    return list(dict.fromkeys([*read, *run.history.item_ids.get("search", {})]))


def _columns(run: Run, trials: Sequence[Trial]) -> dict[str, Any]:
    """Returns trials as columns, which are a third of what a list of objects would be."""
    tasks = _tasks(run)
    origins = list(dict.fromkeys(str(trial.candidate.proposed_by) for trial in trials))
    index = {origin: i for i, origin in enumerate(origins)}
    return {
        "number": [trial.number for trial in trials],
        "origins": origins,
        "origin": [index[str(trial.candidate.proposed_by)] for trial in trials],
        "objectives": [trial.objectives and [_short(value) for value in trial.objectives] for trial in trials],
        "tasks": [
            [_short(trial.score.tasks[task].mean) if task in trial.score.tasks else None for task in tasks]
            for trial in trials
        ],
        "seconds": [round(sum(trial.score.cost.seconds.values()), 2) for trial in trials],
        "odd": _odd(trials),
        "broken": {trial.number: names for trial in trials if (names := _broken(run, trial))},
    }


def _broken(run: Run, trial: Trial) -> list[str]:
    """Returns the constraints that a trial breaks on the search items."""
    pairs = zip(run.constraints, trial.excesses or (), strict=False)
    return [constraint.name for constraint, excess in pairs if excess > 0]


def _odd(trials: Sequence[Trial], *, say: Callable[[str], str] = str) -> dict[int, list[str]]:
    """Returns number -> status and message of those that are not OK, or have a message."""
    return {
        trial.number: [trial.score.status.value, say(trial.score.error or "")[:_MOST_CHARACTERS]]
        for trial in trials
        if trial.score.status is not Status.OK or trial.score.error
    }


def _public_texts(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parts of report.json that may quote messages, each as `_public` has it."""
    told = {key: [_public(text) for text in report[key]] for key in ("caveats", "notes") if key in report}
    return told | {"unmeasured": {name: _public(why) for name, why in report.get("unmeasured", {}).items()}}


def _public(error: str) -> str:
    """Returns the first line of a message without the folders of this machine, for a page that is passed on.

    >>> _public("[Errno 2] No such file: '/home/me/my models/base', 3 of 4")
    "[Errno 2] No such file: '...', 3 of 4"
    """
    return _PATH.sub("...", error.split("\n", 1)[0])


def _without_folder(setting: str) -> str:
    """Returns a setting; of a file or folder of this machine, the name.

    >>> _without_folder("/home/me/my items/more.jsonl"), _without_folder("Answer /yes or /no.")
    ('.../more.jsonl', 'Answer /yes or /no.')
    """
    is_place = re.match(_START, setting) and re.search(r"[/\\][^/\\]", setting[1:]) and "\n" not in setting
    return ".../" + re.split(r"[/\\]", setting.rstrip("/\\"))[-1] if is_place else setting


def _examples(run: Run, report: Mapping[str, Any], questions: Questions) -> dict[str, Any] | None:
    """Returns answers of the winner beside those of the best baseline: first where only one is right."""
    best = report["difference_to_best_baseline"]
    beside = [row["number"] for row in report["baselines"] if best and row["name"] == best["name"]]
    numbers = list(dict.fromkeys([report["winner"]["number"], *beside]))
    rows = trial_answers(run, "report", numbers, questions)
    ordered = sorted(rows, key=lambda row: len(set(row.values)) == 1)
    return {
        "split": "report",
        "trials": numbers,
        "rows": [_clipped(row) for row in ordered[:MOST_EXAMPLES]],
        "left_out": max(0, len(rows) - MOST_EXAMPLES),
    }


def _clipped(row: AnswerRow) -> dict[str, Any]:
    def clip(text: str | None) -> str | None:
        return text if text is None or len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."

    found = row.to_json()
    texts = {key: clip(found[key]) for key in ("question", "gold")}
    return found | texts | {"answers": [clip(text) for text in row.answers]}


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:  # any JSON value
    """Yields dotted keys and the texts of their values; unset ones are left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        for i, inner in enumerate(value):
            name = inner.get("name", i) if isinstance(inner, Mapping) else i
            yield from _flat(f"{prefix}.{name}", inner)
    elif value not in (None, "", [], ()):
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        yield prefix, text[:_MOST_CHARACTERS]
