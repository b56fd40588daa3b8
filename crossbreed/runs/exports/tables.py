"""A run as tables: a row for each trial, or for each item that a trial answered."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from math import fsum
from typing import Literal, Self, TypeAlias, get_args

from crossbreed.runs.record.records import RunRecord, SplitName
from crossbreed.runs.results.answers import Questions
from crossbreed.runs.results.show import PHASES, Run
from crossbreed.runs.spec.objectives import length_of
from crossbreed.types import Candidate, Trial

Cell: TypeAlias = int | float | str | None
CellType: TypeAlias = Literal["int", "float", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Typed columns, and rows that are made as they are read."""

    columns: Mapping[str, CellType]
    rows: Iterator[tuple[Cell, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """The names of the coordinates of a run's searches."""

    first: Sequence[str] = ()
    """Those of the first search, in the order of its points."""
    later: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Stage of another search -> its own."""

    @classmethod
    def of(cls, begun: RunRecord) -> Self:
        """Returns those that the first record of a journal has."""
        return cls(
            first=begun.coordinates, later={int(stage): names for stage, names in begun.more_coordinates.items()}
        )

    @property
    def names(self) -> list[str]:
        """All of them, each once: searches of the same space share them."""
        return list(dict.fromkeys(name for names in (self.first, *self.later.values()) for name in names))

    def named(self, candidate: Candidate) -> dict[str, float]:
        """Returns the coordinates of a candidate's point; none of baselines, warm starts and births."""
        names = self.later.get(candidate.stage, self.first)
        return dict(zip(names, candidate.point, strict=True)) if candidate.point is not None else {}


def trial_table(run: Run, coordinates: Coordinates) -> Table:
    """Returns a row for each trial of the search, by number.

    Args:
        run: The run.
        coordinates: Those of its searches; baselines and warm starts have none.
    """
    tasks, names = [*run.minimized, *map(length_of, run.lengths)], coordinates.names
    measured = {
        **dict.fromkeys((f"objective: {name}" for name in objective_names(run)), "float"),
        **{f"task: {task}": "float" for task in tasks},
        **{f"excess: {constraint.name}": "float" for constraint in run.constraints},
        **{f"seconds: {phase}": "float" for phase in PHASES},
        **{f"coefficient: {name}": "float" for name in names},
    }
    fixed = {"number": "int", "status": "text", "origin": "text", "recipe": "text", "fingerprint": "text"}
    costs = {"items": "int", "tokens": "int", "seconds": "float", "error": "text"}
    columns: dict[str, CellType] = {**fixed, **costs, **measured}  # type: ignore[dict-item]
    return Table(columns=columns, rows=(_trial_row(run, trial, tasks, coordinates, names) for trial in run.trials))


def _trial_row(
    run: Run, trial: Trial, tasks: Sequence[str], coordinates: Coordinates, names: Sequence[str]
) -> tuple[Cell, ...]:
    score, candidate = trial.score, trial.candidate
    seconds = [score.cost.seconds.get(phase, 0.0) for phase in PHASES]
    return (
        *(trial.number, score.status.value, str(candidate.proposed_by)),
        *(candidate.recipe.id if candidate.recipe else None, score.fingerprint),
        *(score.cost.items, score.cost.tokens, fsum(seconds), score.error),
        *(trial.objectives or (None,) * len(run.objectives)),
        *(score.tasks[task].mean if task in score.tasks else None for task in tasks),
        *(trial.excesses or (None,) * len(run.constraints)),
        *seconds,
        *map(coordinates.named(candidate).get, names),
    )


def item_table(run: Run, questions: Questions | None = None) -> Table:
    """Returns a row for each item that a trial answered, on every split, with what was asked where that is at hand.

    A task of which only means are told has none.
    """
    columns: dict[str, CellType] = {
        "number": "int",
        "split": "text",
        "task": "text",
        "item": "text",
        "value": "float",
        "answer": "text",
        "question": "text",
        "gold": "text",
    }
    return Table(columns=columns, rows=_item_rows(run, questions or Questions(())))


def _item_rows(run: Run, questions: Questions) -> Iterator[tuple[Cell, ...]]:
    splits: tuple[SplitName, ...] = get_args(SplitName)
    find = cache(questions.find)
    for number in sorted(run.history.trials):
        for split in splits:
            score = run.history.scores.get((split, number))
            if score is None:
                continue
            said = run.folder.answers(split, number)
            for task, scores in score.tasks.items():
                if scores.means is not None:
                    continue
                texts = said.get(task, {})
                for item, value in zip(scores.item_ids, scores.values, strict=True):
                    asked = find(task, item)
                    shown = (None, None) if asked is None else (asked.question, asked.gold or None)
                    yield number, split, task, item, value, texts.get(item), *shown


def objective_names(run: Run) -> list[str]:
    """Returns the names of the objectives, numbered where two are the same."""
    taken: list[str] = []
    for objective in run.objectives:
        numbered = (f"{objective.name} ({n})" if n > 1 else objective.name for n in count(1))
        taken.append(next(name for name in numbered if name not in taken))
    return taken
