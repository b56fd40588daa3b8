"""Writes many trials into an Optuna study's SQLite file at once.

Cause: `Study.add_trials` makes a transaction for each trial, with a query before each of its rows; 10,000 trials with
18 parameters take minutes. The tables are Optuna's own, made by Optuna for this file.
Range: Optuna 3.2 to 5.0, whose schema is `_SCHEMA`; files of any other schema are written through `Study.add_trials`.
Test: tests/runs/test_export.py compares what Optuna reads with what it wrote itself, and fails for another schema.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from optuna import Study
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

_SCHEMA = [(12, "v3.2.0.a")]
_Row: TypeAlias = tuple[int | float | str | None, ...]


def add_trials(study: Study, file: Path, trials: Sequence[FrozenTrial]) -> None:
    """Does what `study.add_trials(trials)` does, to a study without trials, the only one in its SQLite file."""
    with closing(sqlite3.connect(file)) as connection:
        if is_known := is_known_schema(connection):
            _insert(connection, trials)
    if not is_known:
        study.add_trials(trials)


def is_known_schema(connection: sqlite3.Connection) -> bool:
    """Returns whether the tables are those that this module writes."""
    found = connection.execute("SELECT schema_version, version_num FROM version_info, alembic_version").fetchall()
    return found == _SCHEMA


def _insert(connection: sqlite3.Connection, trials: Sequence[FrozenTrial]) -> None:
    ((study_id,),) = connection.execute("SELECT study_id FROM studies").fetchall()
    numbered = list(enumerate(trials, start=1))
    with connection:  # one transaction
        for table, columns, rows in (
            (
                "trials",
                "trial_id, number, study_id, state, datetime_start, datetime_complete",
                _heads(numbered, study_id),
            ),
            ("trial_values", "trial_id, objective, value, value_type", _values(numbered)),
            ("trial_params", "trial_id, param_name, param_value, distribution_json", _params(numbered)),
            ("trial_user_attributes", "trial_id, key, value_json", _attributes(numbered)),
        ):
            places = ", ".join("?" * len(columns.split(",")))
            connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)


def _heads(numbered: Sequence[tuple[int, FrozenTrial]], study_id: int) -> Iterator[_Row]:
    for key, trial in numbered:
        times = (
            time and time.isoformat(" ", "microseconds") for time in (trial.datetime_start, trial.datetime_complete)
        )
        yield key, key - 1, study_id, trial.state.name, *times


def _values(numbered: Sequence[tuple[int, FrozenTrial]]) -> Iterator[_Row]:
    for key, trial in numbered:
        for objective, value in enumerate(trial.values or ()):
            yield key, objective, value, "FINITE"


def _params(numbered: Sequence[tuple[int, FrozenTrial]]) -> Iterator[_Row]:
    written: dict[int, str] = {}
    for key, trial in numbered:
        for name, value in trial.params.items():
            span = trial.distributions[name]
            if id(span) not in written:
                written[id(span)] = distribution_to_json(span)
            yield key, name, span.to_internal_repr(value), written[id(span)]


def _attributes(numbered: Sequence[tuple[int, FrozenTrial]]) -> Iterator[_Row]:
    for key, trial in numbered:
        for name, value in trial.user_attrs.items():
            yield key, name, json.dumps(value)
