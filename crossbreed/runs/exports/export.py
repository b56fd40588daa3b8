"""`crossbreed export`: writes a run's trials for other tools, from its journal alone."""

import csv
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from crossbreed.errors import InputError, MachineError, require
from crossbreed.fitness import RemoteTask
from crossbreed.runs.exports.tables import Cell, Coordinates, Table, item_table, trial_table
from crossbreed.runs.results.answers import Questions, questions_in
from crossbreed.runs.results.header import read_tasks
from crossbreed.runs.results.show import Run, open_run

if TYPE_CHECKING:
    import pyarrow

Writer: TypeAlias = Callable[[Run, Path], None]
"""Writes a run's trials to a file."""
_SQLITE = "sqlite:///"
_ROWS_AT_A_TIME = 50_000
"""Of a Parquet file: bounds the memory."""


def export_run(
    path: Path,
    *,
    optuna: str | None = None,
    csv: Path | None = None,
    parquet: Path | None = None,
    items: bool = False,
    on_note: Callable[[str], object] = lambda note: None,
) -> list[Path]:
    """Writes the trials of a run, running or over, to new files.

    Args:
        path: The run folder.
        optuna: `sqlite:///FILE`: an Optuna study.
        csv: A CSV file, a row for each trial.
        parquet: A Parquet file with the same rows.
        items: In CSV and Parquet, a row for each item that a trial answered instead.
        on_note: Told what cannot be had.

    Returns:
        The files.

    Raises:
        InputError: a file exists or cannot be written, or nothing is asked for.
        MissingExtra: a Parquet file without pyarrow.
    """
    asked: list[tuple[Path | None, Writer]] = [
        (_sqlite_file(optuna) if optuna else None, _write_study),
        (csv, partial(_write_csv, items=items)),
        (parquet, partial(_write_parquet, items=items)),
    ]
    writers: dict[Path, Writer] = {}
    for target, write in asked:
        if target is not None:
            _require_new(target, taken=writers)
            writers[target] = write
    if not writers or (items and csv is parquet is None):
        raise InputError(
            "there is nothing to export",
            expected="--csv FILE or --parquet FILE, with --items for a row an item; or --optuna sqlite:///FILE",
            got="--items alone"
            if items and not writers
            else "--items with --optuna alone"
            if items
            else "none of them",
        )
    if parquet is not None:
        require("pyarrow", extra="parquet")
    run = open_run(path)
    if items:
        _note_what_is_missing(run, on_note)
    for target, write in writers.items():
        _write_whole(target, partial(write, run))
    return list(writers)


def _note_what_is_missing(run: Run, on_note: Callable[[str], object]) -> None:
    """Tells of which tasks a table of items has no rows, or no questions, and why."""
    remote = {task.name for task in read_tasks(run.folder) if isinstance(task, RemoteTask)}
    told_as_means = run.history.counts.keys()
    for names, told in (
        (run.minimized.keys() - _questions(run).tasks - remote, "the item file is gone or has changed since"),
        (remote - told_as_means, "its provider asks the items and shows none"),
    ):
        if names:
            on_note(f"the columns question and gold are empty for {', '.join(sorted(names))}: {told}")
    if told_as_means:
        on_note(f"there are no rows for {', '.join(sorted(told_as_means))}: its provider tells only means")


def _coordinates(run: Run) -> Coordinates:
    begun = run.folder.begun()
    return Coordinates.of(begun) if begun else Coordinates()  # a run that was killed at its start has an empty journal


def _table(run: Run, *, items: bool) -> Table:
    return item_table(run, _questions(run)) if items else trial_table(run, _coordinates(run))


def _questions(run: Run) -> Questions:
    return questions_in(run.folder, run.folder.begun())


def _sqlite_file(url: str) -> Path:
    name = url.removeprefix(_SQLITE)
    if not url.startswith(_SQLITE) or not name or "?" in name:
        raise InputError(
            "an Optuna study is exported to an SQLite file",
            expected="--optuna sqlite:///FILE, with a fourth slash for an absolute path",
            got=f"--optuna {url}",
            fix=f"--optuna {_SQLITE}{shlex.quote(url)}" if "://" not in url and url else "",
        )
    return Path(name)


def _require_new(target: Path, *, taken: Mapping[Path, Writer]) -> None:
    if os.path.lexists(target) or target in taken:
        raise InputError(
            "the file to write exists" if target not in taken else "two exports go to the same file",
            expected="a new file",
            where=str(target),
            fix="name another file, or remove this one",
        )
    if not target.parent.is_dir():
        raise InputError("the folder of the file to write does not exist", where=str(target.parent), fix="create it")


def _write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """Has a sibling written, then renamed: the file appears whole or not at all."""
    partial_file = target.with_name(f".{target.name}.{os.getpid()}-partial")
    try:
        write(partial_file)
        partial_file.replace(target)
    except OSError as error:
        raise MachineError(f"writing {target} failed: {error.strerror or error}") from error
    finally:
        partial_file.unlink(missing_ok=True)


def _write_study(run: Run, file: Path) -> None:
    from crossbreed.runs.exports.optuna_study import write_study

    write_study(run, _coordinates(run), file)


def _write_csv(run: Run, file: Path, *, items: bool) -> None:
    table = _table(run, items=items)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)  # ends lines as RFC 4180 has it: with "\n", a "\r" in an answer would not be quoted
        writer.writerow(table.columns)
        writer.writerows(table.rows)


def _write_parquet(run: Run, file: Path, *, items: bool) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    table = _table(run, items=items)
    types = {"int": pyarrow.int64(), "float": pyarrow.float64(), "text": pyarrow.string()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in table.columns.items()])
    with ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in _batches(table.rows, schema):
            writer.write_table(batch)


def _batches(rows: Iterator[tuple[Cell, ...]], schema: "pyarrow.Schema") -> Iterator["pyarrow.Table"]:
    import pyarrow

    while batch := list(islice(rows, _ROWS_AT_A_TIME)):
        arrays = [
            pyarrow.array(column, field.type) for column, field in zip(zip(*batch, strict=True), schema, strict=True)
        ]
        yield pyarrow.Table.from_arrays(arrays, schema=schema)
