"""A run as an Optuna study in an SQLite file, which `optuna-dashboard sqlite:///FILE` opens.

A study holds no more than the journal does: parameters are the coordinates of the points that were asked, so that their
distributions reach from the smallest to the largest of them; baselines and warm starts have none.
"""

import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.pool import NullPool

from crossbreed.optimizer.silence_optuna import silence_optuna
from crossbreed.runs.exports._optuna_rows import add_trials
from crossbreed.runs.exports.tables import Coordinates, objective_names, trial_table
from crossbreed.runs.results.show import Run
from crossbreed.types import Status

_STATES = {
    Status.OK: TrialState.COMPLETE,
    Status.STOPPED: TrialState.PRUNED,
    Status.INVALID: TrialState.FAIL,
    Status.FAILED: TrialState.FAIL,
}
_NO_ATTRIBUTE = ("objective: ", "coefficient: ")
"""Columns of a trial's row that are its values and parameters."""


def write_study(run: Run, coordinates: Coordinates, file: Path) -> None:
    """Writes the study to a new file."""
    with silence_optuna():
        options = {
            "creator": partial(sqlite3.connect, file),
            "poolclass": NullPool,
        }  # a path may hold what a URL may not
        storage = optuna.storages.RDBStorage("sqlite:///", engine_kwargs=options)
        directions = ["minimize" if objective.minimize else "maximize" for objective in run.objectives]
        study = optuna.create_study(storage=storage, study_name=run.name, directions=directions)
        study.set_metric_names(objective_names(run))
        add_trials(study, file, study_trials(run, coordinates))
        storage.remove_session()


def study_trials(run: Run, coordinates: Coordinates) -> list[FrozenTrial]:
    """Returns the run's candidates as Optuna has trials, by number: those in flight are running."""
    candidates = [candidate for _, candidate in sorted(run.history.candidates.items())]
    points = [coordinates.named(candidate) for candidate in candidates]
    spans = {name: _span([point[name] for point in points if name in point]) for name in coordinates.names}
    table = trial_table(run, coordinates)
    attributes = {
        row[0]: {
            name: value
            for name, value in zip(table.columns, row, strict=True)
            if value is not None and not name.startswith(_NO_ATTRIBUTE)
        }
        for row in table.rows
    }
    return [
        create_trial(
            state=_STATES[trial.score.status] if trial else TrialState.RUNNING,
            values=trial.objectives if trial else None,
            params=point,
            distributions={name: spans[name] for name in point},
            user_attrs=attributes.get(candidate.number, {}),
        )
        for candidate, point in zip(candidates, points, strict=True)
        for trial in (run.history.trials.get(candidate.number),)
    ]


def _span(values: Sequence[float]) -> BaseDistribution:
    return FloatDistribution(min(values, default=0.0), max(values, default=0.0))
