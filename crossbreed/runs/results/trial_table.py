"""A table of trials on a terminal: a column for each objective and task, as many as a line has room for."""

from collections.abc import Collection, Iterable, Sequence
from textwrap import wrap

from crossbreed.constraints import violation_of
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import Trial

_OBJECTIVE, _TASK, _SECONDS = 14, 8, 7
"""Characters of a column at least."""
_ORIGIN = 28
_GAP = "  "
_STAR = "  *"
_BROKEN = "  !"


def trial_table(
    trials: Sequence[Trial], objectives: Sequence[Objective], *, marked: Collection[int], width: int | None = None
) -> list[str]:
    """Returns a row for each trial: objectives, a column for each task's mean, seconds.

    Args:
        trials: Those to show, each with a value.
        objectives: The run's.
        marked: Numbers of the trials that get a star.
        width: Characters of a line: columns that have no room are named below. None: any number.
    """
    columns = _columns(trials, objectives)
    origins = ["origin", *(str(trial.candidate.proposed_by) for trial in trials)]
    origin = _ORIGIN
    if width is not None and 8 + origin + _size(columns) > width:
        origin = min(_ORIGIN, 1 + max(map(len, origins)))
    shown = len(columns)
    while width is not None and shown > 1 and 8 + origin + _size(columns[:shown]) > width:
        shown -= 1
    numbers = ["trial", *(str(trial.number) for trial in trials)]
    stars = ["", *(_mark(trial, is_marked=trial.number in marked) for trial in trials)]
    lines = [
        f"{number:>6}{_GAP}{who:<{origin}}{_GAP.join(cells)}{star}"
        for number, who, star, *cells in zip(numbers, origins, stars, *columns[:shown], strict=True)
    ]
    if left_out := [column[0].strip() for column in columns[shown:]]:
        lines += fitted([f"no room for {', '.join(left_out)}: widen the terminal, or see --json"], width=width)
    return lines


def _mark(trial: Trial, *, is_marked: bool) -> str:
    """Returns what stands behind a row: a star, and an exclamation mark where a constraint is broken."""
    is_broken = bool(trial.excesses) and violation_of(trial.excesses) > 0
    return (_STAR + "!" * is_broken) if is_marked else _BROKEN * is_broken


def fitted(lines: Sequence[str], *, width: int | None) -> list[str]:
    """Returns sentences in lines of a width; None: as they are."""
    if width is None:
        return [*lines]
    return [part for line in lines for part in wrap(line, width, break_on_hyphens=False) or [""]]


def _columns(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[list[str]]:
    """Returns the columns behind the origin, what matters most first: a head, then a cell for each trial."""
    named = (task for objective in objectives for task in objective.tasks)
    known = {task for trial in trials for task in trial.score.tasks}
    shown = {objective.tasks[0] for objective in objectives if len(objective.tasks) == 1}
    tasks = [task for task in dict.fromkeys([*named, *sorted(known)]) if task in known - shown]
    values = [[None if t.objectives is None else t.objectives[i] for t in trials] for i in range(len(objectives))]
    means = [[s.mean if (s := t.score.tasks.get(task)) else None for t in trials] for task in tasks]
    seconds = [f"{sum(trial.score.cost.seconds.values()):.2f}" for trial in trials]
    return [
        *(_column(o.name, _OBJECTIVE, map(_cell, found)) for o, found in zip(objectives, values, strict=True)),
        *(_column(task, _TASK, map(_cell, found)) for task, found in zip(tasks, means, strict=True)),
        _column("seconds", _SECONDS, seconds),
    ]


def _column(head: str, at_least: int, cells: Iterable[str]) -> list[str]:
    texts = [head, *cells]
    width = max(at_least, len(head))
    return [f"{text:>{width}}" for text in texts]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _size(columns: Sequence[Sequence[str]]) -> int:
    """Returns the characters of some columns, and of the star behind them."""
    return sum(len(column[0]) for column in columns) + len(_GAP) * (len(columns) - 1) + len(_STAR)
