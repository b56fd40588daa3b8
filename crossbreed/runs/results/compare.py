"""`crossbreed compare`: models of runs against each other, paired on the report items that both answered.

It reads journals and answers nothing.
"""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossbreed.errors import InputError, each
from crossbreed.fitness import CONTENT_ID
from crossbreed.parsing import any_of, shown, suggestion
from crossbreed.runs.record.records import RunRecord
from crossbreed.runs.results.numbers import number, with_interval
from crossbreed.runs.results.report_text import means_notes
from crossbreed.runs.results.show import Run, open_run
from crossbreed.runs.results.statistics import LEVEL, Interval, paired_difference
from crossbreed.runs.results.winner import WINNER, named_baselines, recorded_winner
from crossbreed.runs.spec.objectives import LENGTH, Objective
from crossbreed.types import ItemScores, Means, Score, Status

COMPARISON_SCHEMA = 1
_MOST_DIGITS = 18
"""Of a trial's number; Python reads no number of thousands."""
_NO_QUESTION = ("name", "chunk", "stratify")
"""The settings of a task that change neither what is asked nor how an answer is scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model of a run, with what it answered of the report items."""

    run: Run
    begun: RunRecord
    name: str
    """`winner`, the name of a baseline, or `trial N`."""
    trial: int
    tasks: Mapping[str, ItemScores]

    def __str__(self) -> str:
        return f"{self.run.folder.path}: {self.name}" + f", trial {self.trial}" * (self.name != f"trial {self.trial}")

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        trial = self.run.history.trials[self.trial]
        return {
            "run": str(self.run.folder.path),
            "name": self.name,
            "number": self.trial,
            "origin": str(trial.candidate.proposed_by),
            "recipe_id": trial.recipe.id,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An objective or a task in a comparison."""

    name: str
    minimize: bool
    first: float
    """The first model's value on the shared items; `second` likewise."""
    second: float
    by: Interval
    """How much better the first is; positive means better, in either direction."""

    @property
    def verdict(self) -> str:
        """Whether the interval of the difference leaves out 0."""
        return "the first is better" if self.by.low > 0 else "the second is better" if self.by.high < 0 else "undecided"

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        told = {"name": self.name, "minimize": self.minimize, "first": self.first, "second": self.second}
        return {**told, "difference": self.by.to_json(), "verdict": self.verdict}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The first model against another, on the report items that both answered."""

    first: Model
    second: Model
    objectives: tuple[Line, ...]
    """The objectives that both runs have."""
    tasks: tuple[Line, ...]
    notes: tuple[str, ...]
    """What is left out of the comparison, and why."""
    is_paired: bool = True
    """Whether the items of some task are told: those of the others are not paired."""

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        return {
            "first": self.first.to_json(),
            "second": self.second.to_json(),
            "objectives": [line.to_json() for line in self.objectives],
            "tasks": [line.to_json() for line in self.tasks],
            "notes": list(self.notes),
        }


def compare(models: Sequence[str]) -> list[Comparison]:
    """Compares the first model with each of the others.

    Args:
        models: `RUN`, a run folder, for its winner; `RUN:MODEL` for a baseline by its name or a trial by its number.

    Raises:
        InputError: there is no such model, its report items have not been answered, or two models share none.
    """
    if len(models) < 2:
        raise InputError(
            "a comparison needs two models",
            expected="RUN_A RUN_B, or RUN:MODEL for a baseline or a trial of a run",
            got=" ".join(models) or "none",
        )
    opened: dict[Path, Run] = {}
    first, *others = each(lambda text: _model(text, opened), models)
    return [_compared(first, other) for other in others]


def comparison_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Returns the documented output of `compare --json`."""
    return {
        "schema": COMPARISON_SCHEMA,
        "level": LEVEL,
        "comparisons": [comparison.to_json() for comparison in comparisons],
    }


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """Returns the output of `crossbreed compare`: a table for each pair."""
    return "\n\n".join("\n".join(_lines(comparison)) for comparison in comparisons)


def _lines(found: Comparison) -> list[str]:
    rows = [*found.objectives, *found.tasks]
    names = [line.name + " (less is better)" * line.minimize for line in rows]
    width = max(map(len, names))
    return [
        f"first   {found.first}",
        f"second  {found.second}",
        f"{'':{width}}  {'first':>8}  {'second':>8}  {'better by':<27}{'items':>6}",
        *(
            f"{name:{width}}  {number(line.first):>8}  {number(line.second):>8}  "
            f"{with_interval(line.by, signed=True):<27}{line.by.n:>6}  {line.verdict}"
            for name, line in zip(names, rows, strict=True)
        ),
        "report items that both answered; "
        + f"{LEVEL:.0%} paired bootstrap intervals, stratified by task; " * found.is_paired
        + "positive: the first is better",
        *found.notes,
    ]


def _compared(first: Model, second: Model) -> Comparison:
    shared, notes = _shared_items(first, second)
    a, b = ({task: _only(model.tasks[task], ids) for task, ids in shared.items()} for model in (first, second))
    seed = int(str(first.begun.spec.get("seed", 0)))

    base = _base_on(first, shared)

    def line(measure: Objective) -> Line:
        by = paired_difference(a, b, measure, base=base, seed=seed)
        values = measure.of(a, base), measure.of(b, base)
        return Line(name=measure.name, minimize=measure.minimize, first=values[0], second=values[1], by=by)

    ours, theirs = first.run.objectives, second.run.objectives
    both = [o for o in ours if o in theirs and shared.keys() >= set(o.tasks) and not (o.needs_base and base is None)]
    alone = [o for o in (*ours, *theirs) if o not in both]
    others = [o for o in alone if not (o.kind == "task" and not o.needs_base and o.tasks[0] in shared)]
    if names := dict.fromkeys(f"`{o.name}`" for o in others):
        notes.append(f"not compared, since only one of the two has the objective or its tasks: {', '.join(names)}")
    means = {
        task: all(scores[task].standard_error is not None for scores in (a, b))
        for task in shared
        if a[task].means or b[task].means
    }
    notes += [*means_notes(means), *_other_machinery(first.begun, second.begun)]
    less = first.run.minimized
    tasks = [Objective(kind="task", tasks=(task,), minimize=less.get(task, task.startswith(LENGTH))) for task in shared]
    return Comparison(
        first=first,
        second=second,
        objectives=tuple(line(o) for o in both if o.kind != "task" or o.needs_base),
        tasks=tuple(map(line, tasks)),
        notes=tuple(notes),
        is_paired=len(means) < len(shared),
    )


def _base_on(first: Model, shared: Mapping[str, frozenset[str]]) -> dict[str, ItemScores] | None:
    """Returns the scores of the first run's base on the shared items; None if it answered others."""
    found = first.run.history.base_on("report")
    if found is None or any(ids - {*found[task].item_ids} for task, ids in shared.items() if task in found):
        return None
    return {task: _only(found[task], ids) for task, ids in shared.items() if task in found}


def _shared_items(first: Model, second: Model) -> tuple[dict[str, frozenset[str]], list[str]]:
    """Returns task -> the report items that both answered, and what is left out.

    Raises:
        InputError: there are none, or what a task asks or how it scores differs.
    """
    in_order = dict.fromkeys((*first.run.minimized, *first.tasks))  # the spec's: a journal's keys are sorted
    tasks = [task for task in in_order if task in first.tasks and task in second.tasks]
    notes = []
    if alone := sorted(first.tasks.keys() ^ second.tasks.keys()):
        notes.append(f"not compared, since only one of the two has the task: {', '.join(alone)}")
    shared: dict[str, frozenset[str]] = {}
    for task in tasks:
        _require_same_question(task, first, second)
        ids = [frozenset(model.tasks[task].item_ids) for model in (first, second)]
        shared[task] = ids[0] & ids[1]
        asked = task.removeprefix(LENGTH)
        if first.begun.contents.get(asked) != second.begun.contents.get(asked):
            has_own = any(asked in model.begun.own_ids for model in (first, second))
            shared[task] = frozenset() if has_own else frozenset(filter(CONTENT_ID.fullmatch, shared[task]))
        if ids[0] != ids[1]:
            notes.append(
                f"{task}: {len(shared[task])} report items are in both runs, of {len(ids[0])} of the first and "
                f"{len(ids[1])} of the second"
            )
    if empty := [task for task in tasks if not shared[task]]:
        raise _nothing_shared(
            first,
            second,
            got=f"task `{empty[0]}`: no report item of one is, by its content, a report item of the other",
            fix="give both runs the same file, `seed` and `split`",
        )
    if not tasks:
        got = f"tasks {any_of(first.tasks)} and tasks {any_of(second.tasks)}"
        raise _nothing_shared(first, second, got=got, fix="compare runs that have a task in common")
    return shared, notes


def _nothing_shared(first: Model, second: Model, *, got: str, fix: str) -> InputError:
    return InputError(
        "the two models have no report items in common, so they cannot be compared",
        expected="runs with the same tasks and report items",
        got=got,
        where=f"{first.run.folder.path} and {second.run.folder.path}",
        fix=fix,
    )


def _require_same_question(task: str, first: Model, second: Model) -> None:
    ours, theirs = (_settings(model.begun, task) for model in (first, second))
    differing = [key for key in ours if key in theirs and key not in _NO_QUESTION and ours[key] != theirs[key]]
    if differing:
        raise InputError(
            f"the two runs ask or score task `{task}` in different ways, so its values cannot be compared",
            expected="the same settings of the task",
            got="; ".join(f"{key}: {shown(ours[key])} and {shown(theirs[key])}" for key in differing[:3]),
            where=f"{first.run.folder.path} and {second.run.folder.path}",
            fix="run one of the two again, with the settings of the other",
        )


def _other_machinery(first: RunRecord, second: RunRecord) -> Iterator[str]:
    """Yields in what the two runs computed their answers otherwise, of which a part of the difference may be."""
    ours, theirs = _computed(first), _computed(second)
    kind = "fitness.engine.kind"
    is_another = ours.get(kind) != theirs.get(kind)  # whose settings are others too
    for key in ("dtype", kind) if is_another else sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            yield (
                f"answered otherwise: {key} {shown(ours.get(key))} in the first run and {shown(theirs.get(key))} in "
                "the second; a part of the difference may be theirs"
            )


def _computed(begun: RunRecord) -> dict[str, Any]:
    """Returns what computes a run's answers, beside the recipe: setting -> value."""
    fitness = begun.spec.get("fitness")
    engine = fitness.get("engine") if isinstance(fitness, dict) else None
    found = {f"fitness.engine.{key}": value for key, value in engine.items()} if isinstance(engine, dict) else {}
    return {**found, "dtype": begun.spec.get("dtype")}


def _settings(begun: RunRecord, task: str) -> Mapping[str, Any]:
    fitness = begun.spec.get("fitness")
    tasks = fitness.get("tasks") if isinstance(fitness, dict) else None
    known = (one for one in tasks or () if isinstance(one, dict)) if isinstance(tasks, list) else ()
    return next((one for one in known if one.get("name") == task), {})


def _only(scores: ItemScores, ids: frozenset[str]) -> ItemScores:
    places = [place for place, item_id in enumerate(scores.item_ids) if item_id in ids]
    means = scores.means and Means(
        counts=tuple(scores.means.counts[place] for place in places),
        errors=tuple(scores.means.errors[place] for place in places),
    )
    kept = [(scores.item_ids[place], scores.values[place]) for place in places]
    return ItemScores(item_ids=tuple(i for i, _ in kept), values=tuple(v for _, v in kept), means=means)


def _model(text: str, opened: dict[Path, Run]) -> Model:
    """Opens what `RUN` or `RUN:MODEL` names."""
    path, name = _split(text)
    run = opened[path] if path in opened else opened.setdefault(path, open_run(path))
    number = _number(run, name)
    score = run.history.scores.get(("report", number))
    if score is None or score.status is not Status.OK:
        raise _unanswered(run, name, number, score)
    begun = run.folder.begun()
    assert begun is not None, "a journal with scores starts with its run"
    shown_as = f"trial {number}" if name.isdecimal() else name
    return Model(run=run, begun=begun, name=shown_as, trial=number, tasks=score.tasks)


def _split(text: str) -> tuple[Path, str]:
    if os.path.exists(text):  # no error for 300 letters
        return Path(text), WINNER
    parts = text.split(":")
    for cut in range(len(parts) - 1, 0, -1):  # a name may have colons, and a folder too
        folder = ":".join(parts[:cut])
        if cut == 1 or os.path.exists(folder):
            return Path(folder), ":".join(parts[cut:])
    if "/" not in text:
        raise InputError(
            f"`{text}` is not a run folder",
            expected="RUN, or RUN:MODEL for a baseline or a trial of a run",
            got=text,
            fix=f"to name a model of a run, write RUN:{text}",
        )
    return Path(text), WINNER


def _number(run: Run, name: str) -> int:
    """Returns the trial of a model's name."""
    history, where = run.history, str(run.folder.path)
    named = {b.name: b.trial.number for b in named_baselines(history.ok_trials, run.objectives)}
    if name in named:
        return named[name]
    if name.isdecimal() and len(name) <= _MOST_DIGITS:
        return history.publishable(int(name), where=where).number
    if name != WINNER:
        names = (WINNER, *named)
        raise InputError(
            f"the run has no model `{name}`",
            expected=f"{any_of(names)}, or the number of a trial",
            got=name,
            where=where,
            fix=suggestion(name, names),
        )
    if winner := recorded_winner(history, run.objectives):
        return winner.number
    raise InputError(
        "the run has no winner yet",
        expected="a run whose report is complete, or RUN:N for a trial",
        where=where,
        fix=f"crossbreed report {shlex.quote(where)}",
    )


def _unanswered(run: Run, name: str, number: int, score: Score | None) -> InputError:
    path = shlex.quote(str(run.folder.path))
    is_reported = name == WINNER or not name.isdecimal()
    return InputError(
        f"the report items have not been answered by trial {number}",
        expected="a model of a complete report, since a comparison answers nothing",
        got=f"{score.status.value}: {score.error}" if score else "no answers of it in the journal",
        where=str(run.folder.path),
        fix=f"crossbreed report {path}" + ("" if is_reported else f" --trial {number}"),
    )
