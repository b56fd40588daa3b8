"""Recipes of earlier runs, as a spec names them: `RUN` is a run's winner, `RUN:17` its trial 17."""

from pathlib import Path

from crossbreed.errors import InputError
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.types import Recipe

_MOST_DIGITS = 18
"""Of a trial's number."""


def recipe_of_run(text: str) -> Recipe | None:
    """Returns the recipe that the name of a run, or of its trial, stands for; None if it is no such name.

    Raises:
        InputError: the run has no winner yet or no such trial, or that has no recipe.
    """
    path, _, trial = text.rpartition(":")
    if _is_run(Path(text)):
        folder, number = RunFolder(Path(text)), None
    elif path and _is_run(Path(path)) and trial.isdecimal() and len(trial) <= _MOST_DIGITS:
        folder, number = RunFolder(Path(path)), int(trial)
    else:
        return None
    if number is None:
        report = folder.read_json(folder.report_json)
        if report is None:
            raise InputError(
                "the run has no winner yet",
                expected="a run with a report, or one of its trials: RUN:N",
                where=text,
                fix=f"name a trial, as in {text}:12, or finish the run first",
            )
        number = int(report["winner"]["number"])
    history = fold(read(folder.journal))
    if (candidate := history.candidates.get(number)) is None or candidate.recipe is None:
        raise InputError(
            f"the run has no trial {number} with a recipe",
            expected=f"0 to {max(history.candidates)}" if history.candidates else "a run with a trial",
            got=str(number),
            where=text,
        )
    return candidate.recipe


def _is_run(path: Path) -> bool:
    return path.is_dir() and RunFolder(path).journal.is_file()
