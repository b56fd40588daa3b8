"""`crossbreed export`: a run's trials in CSV, Parquet and Optuna are what its journal holds."""

import csv
import gzip
import json
import shlex
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from in_process import exit_code_of
from pyarrow import parquet
from toy_runs import SKILLS, write_spec
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.errors import InputError, MissingExtra
from crossbreed.optimizer.silence_optuna import silence_optuna
from crossbreed.runs import load_spec, run
from crossbreed.runs.exports import _optuna_rows
from crossbreed.runs.exports.export import export_run
from crossbreed.runs.exports.optuna_study import study_trials, write_study
from crossbreed.runs.exports.tables import Coordinates, item_table, trial_table
from crossbreed.runs.record.checksum import sealed
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.runs.record.records import AskRecord, RunRecord, TellRecord, to_json
from crossbreed.runs.results.show import Run, _trial_json, open_run, show_json
from crossbreed.runs.spec.objectives import Objective

GOLDEN = Path(__file__).parents[1] / "golden/journal/schema-2.jsonl"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    experts = {"one": Path("fake/one"), "two": Path("fake/two")}
    spec = write_spec(folder, base=Path("fake/base"), experts=experts, fitness__engine={"kind": "fake_recipes"})
    run(load_spec(spec), folder / "run")
    return folder / "run"


@pytest.fixture
def odd(finished: Path) -> Run:
    """A run with two objectives whose trials have every status, points, births, and one in flight."""
    less = Objective(kind="task", tasks=("blue",), minimize=True)
    objectives = (Objective(kind="task", tasks=("red",)), less)
    return replace(
        open_run(finished), history=fold(read(GOLDEN)), objectives=objectives, minimized={"red": 0, "blue": 1}
    )


def coordinates_of(journal: Path) -> tuple[str, ...]:
    begun = next(iter(read(journal)))
    assert isinstance(begun, RunRecord)
    return begun.coordinates


def read_study(file: Path) -> optuna.Study:
    with silence_optuna():
        return optuna.load_study(study_name=None, storage=f"sqlite:///{file}")


def test_a_row_for_each_trial_in_csv_and_parquet(finished: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(
        app,
        ["export", str(finished), "--csv", str(tmp_path / "t.csv"), "--parquet", str(tmp_path / "t.parquet")],
        catch_exceptions=False,
    )
    assert told.stdout == f"wrote {tmp_path / 't.csv'}\nwrote {tmp_path / 't.parquet'}\n"
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    trials, coordinates = show_json(finished)["trials"], coordinates_of(finished / "journal.jsonl")
    assert len(rows) == len(trials) == 16
    for row, trial, asked in zip(rows, trials, open_run(finished).trials, strict=True):
        assert (int(row["number"]), row["status"], row["origin"]) == (trial["number"], "OK", trial["origin"])
        assert float(row["objective: mean of red, blue"]) == trial["objectives"][0]
        assert [float(row[f"task: {skill}"]) for skill in SKILLS] == [trial["tasks"][skill] for skill in SKILLS]
        assert float(row["seconds"]) == pytest.approx(sum(trial["seconds"].values()))
        assert row["recipe"] == asked.recipe.id
        found = [row[f"coefficient: {name}"] for name in coordinates]
        assert found == [*map(repr, asked.candidate.point or ())] or set(found) == {""}
    table = parquet.read_table(tmp_path / "t.parquet")
    as_text = [{name: "" if value is None else str(value) for name, value in row.items()} for row in table.to_pylist()]
    assert as_text == rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.parquet"]


def test_a_row_for_each_item_that_was_answered(finished: Path, tmp_path: Path) -> None:
    export_run(finished, csv=tmp_path / "i.csv", parquet=tmp_path / "i.parquet", items=True)
    opened = open_run(finished)
    expected = sum(len(scores.values) for score in opened.history.scores.values() for scores in score.tasks.values())
    rows = parquet.read_table(tmp_path / "i.parquet").to_pylist()
    assert len(rows) == expected == len((tmp_path / "i.csv").read_text().splitlines()) - 1
    assert {row["split"] for row in rows} == {"search", "select", "report"}
    assert all(row["answer"] for row in rows), "the fake engine generates a text for every item"
    red = [row["value"] for row in rows if (row["number"], row["split"], row["task"]) == (3, "search", "red")]
    assert tuple(red) == opened.history.scores["search", 3].tasks["red"].values


def test_whatever_an_answer_holds_a_row_is_one_row(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    [file] = (tmp_path / "run/answers").glob("000003.search.json.gz")
    said = json.loads(gzip.decompress(file.read_bytes()))
    texts = ["a\rb", "\r", "a\r\nb", "\n", 'a"b', ",;\t", "\u2028\x85\x0b\x1c"]
    said["red"] = dict(zip(said["red"], texts + ["x"] * len(said["red"]), strict=False))
    file.write_bytes(gzip.compress(json.dumps(said).encode()))
    export_run(tmp_path / "run", csv=tmp_path / "i.csv", items=True)
    with (tmp_path / "i.csv").open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert all(None not in row and None not in row.values() for row in rows)
    red = [row["answer"] for row in rows if (row["number"], row["split"], row["task"]) == ("3", "search", "red")]
    assert red[: len(texts)] == texts


def test_an_item_has_its_question_where_that_is_at_hand(finished: Path, tmp_path: Path) -> None:
    def rows(name: str) -> tuple[list[Any], list[str]]:
        notes = list[str]()
        export_run(finished, parquet=tmp_path / name, items=True, on_note=notes.append)
        return parquet.read_table(tmp_path / name).to_pylist(), notes

    task = load_spec(finished / "spec.yaml").fitness.tasks[0]
    items = {item.id: item for item in task.load_items()}
    found, notes = rows("all.parquet")
    assert notes == []
    for row in found:
        assert row["question"]
        assert row["gold"]
        if row["task"] == task.name:
            item = items[row["item"]]
            assert (row["question"], row["gold"]) == (task.question(item), task.shown(item))
    file = Path(task.items)
    kept = file.read_text()
    file.write_text(kept.replace("red", "crimson"))
    try:
        found, notes = rows("changed.parquet")
    finally:
        file.write_text(kept)
    assert {row["task"] for row in found if row["question"] is None} == {task.name}
    assert notes == [
        f"the columns question and gold are empty for {task.name}: the item file is gone or has changed since"
    ]


def test_what_shows_no_trial_as_json_names_the_export(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code_of("show", finished, "--trial", "1", "--json") == 2
    advice = capsys.readouterr().err.partition("crossbreed export ")[2].split("\n")[0]
    assert exit_code_of("export", *shlex.split(advice)) == 0
    assert (tmp_path / "items.csv").exists()


def test_every_status_is_a_row(odd: Run) -> None:
    table = trial_table(odd, Coordinates(first=coordinates_of(GOLDEN)))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["status"] for row in rows] == ["OK", "OK", "OK", "FAILED", "INVALID", "STOPPED"]
    assert rows[3]["objective: red"] is rows[3]["task: red"] is None
    assert rows[4]["error"] == "NaN in `lm_head.weight`"
    assert rows[5]["recipe"] is None
    assert _trial_json(odd.trials[5], odd.takes)["recipe"] is None
    assert len(list(item_table(odd).rows)) > len(rows)


def test_two_objectives_of_one_name_are_two_columns(odd: Run) -> None:
    twice = replace(odd, objectives=odd.objectives[:1] * 2)
    assert [name for name in trial_table(twice, Coordinates()).columns if "objective" in name] == [
        "objective: red",
        "objective: red (2)",
    ]


def test_optuna_reads_the_run_as_a_study(finished: Path, tmp_path: Path) -> None:
    export_run(finished, optuna=f"sqlite:///{tmp_path / 'a run#1.db'}")
    study = read_study(tmp_path / "a run#1.db")
    assert study.study_name == "toy"
    assert study.directions == [optuna.study.StudyDirection.MAXIMIZE]
    trials = open_run(finished).trials
    assert [trial.values for trial in study.trials] == [list(trial.objectives or ()) for trial in trials]
    assert study.best_value == max(trial.objectives for trial in trials if trial.objectives)[0]
    names = coordinates_of(finished / "journal.jsonl")
    for there, here in zip(study.trials, trials, strict=True):
        assert there.params == dict(zip(names, here.candidate.point or (), strict=bool(here.candidate.point)))
        assert there.user_attrs["recipe"] == here.recipe.id
        assert there.user_attrs["task: red"] == here.score.tasks["red"].mean
        assert all(span.low <= there.params[name] <= span.high for name, span in there.distributions.items())


def test_rows_written_at_once_are_what_optuna_writes_itself(
    odd: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinates = Coordinates(first=coordinates_of(GOLDEN))
    write_study(odd, coordinates, tmp_path / "ours.db")
    with closing(sqlite3.connect(tmp_path / "ours.db")) as connection:
        assert _optuna_rows.is_known_schema(connection), "this version of Optuna has other tables: see the module"
    monkeypatch.setattr(_optuna_rows, "_SCHEMA", [(13, "later")])
    write_study(odd, coordinates, tmp_path / "optuna.db")
    ours, theirs = (read_study(tmp_path / name) for name in ("ours.db", "optuna.db"))
    assert [_told(trial) for trial in ours.trials] == [_told(trial) for trial in theirs.trials]
    assert len(ours.trials) == len(odd.history.candidates)
    assert ours.metric_names == theirs.metric_names


def _told(trial: optuna.trial.FrozenTrial) -> dict[str, object]:
    names = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs")
    return {name: getattr(trial, name) for name in names} | {"is_timed": trial.datetime_complete is None}


def test_states_of_optuna(odd: Run) -> None:
    states = [trial.state.name for trial in study_trials(odd, Coordinates(first=coordinates_of(GOLDEN)))]
    assert states == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL", "FAIL", "PRUNED", "RUNNING"]


@pytest.mark.parametrize("flag", ["--csv", "--parquet", "--optuna"])
def test_a_file_that_exists_is_left_alone(finished: Path, tmp_path: Path, flag: str) -> None:
    target = tmp_path / "taken"
    target.write_text("mine")
    done = CliRunner().invoke(app, ["export", str(finished), flag, f"sqlite:///{target}"[10 * (flag != "--optuna") :]])
    assert isinstance(done.exception, InputError)
    assert "exists" in str(done.exception)
    assert target.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "nothing to export"),
        ({"items": True}, "nothing to export"),
        ({"items": True, "optuna": "sqlite:///x.db"}, "nothing to export"),
        ({"optuna": "x.db"}, "--optuna sqlite:///x.db"),
        ({"optuna": "postgresql://x"}, "SQLite"),
        ({"csv": Path("nowhere/x.csv")}, "does not exist"),
        ({"csv": Path("x"), "parquet": Path("x")}, "same file"),
    ],
)
def test_what_cannot_be_written_is_refused(
    finished: Path, tmp_path: Path, options: dict[str, object], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=told):
        export_run(finished, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_parquet_without_pyarrow_names_the_extra(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"crossbreed\[parquet\]"):
        export_run(finished, parquet=tmp_path / "t.parquet")


def test_a_write_that_fails_leaves_nothing(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> Callable[[], None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv, "writer", full)
    with pytest.raises(Exception, match="No space left"):
        export_run(finished, csv=tmp_path / "t.csv")
    assert not list(tmp_path.iterdir())


def test_a_run_killed_at_its_start_has_no_rows(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/spec.yaml").write_bytes((finished / "spec.yaml").read_bytes())
    (tmp_path / "run/journal.jsonl").touch()
    export_run(tmp_path / "run", csv=tmp_path / "t.csv", optuna=f"sqlite:///{tmp_path / 't.db'}")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1
    assert read_study(tmp_path / "t.db").trials == []


@pytest.mark.slow
def test_ten_thousand_trials_take_seconds(finished: Path, tmp_path: Path) -> None:
    begun, *records = read(finished / "journal.jsonl")
    asks = {record.number: record for record in records if isinstance(record, AskRecord)}
    tells = {r.number: r for r in records if isinstance(r, TellRecord) and r.split == "search"}
    numbers = [number if number < len(asks) else 8 + number % (len(asks) - 8) for number in range(10_000)]
    many = [replace(of[old], number=new) for new, old in enumerate(numbers) for of in (asks, tells)]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/spec.yaml").write_bytes((finished / "spec.yaml").read_bytes())
    with (tmp_path / "run/journal.jsonl").open("wb") as file:
        before = b""
        for record in (begun, *many):
            before = sealed(to_json(record), after=before)
            file.write(before + b"\n")
    started_s = time.process_time()
    export_run(tmp_path / "run", csv=tmp_path / "t.csv", optuna=f"sqlite:///{tmp_path / 't.db'}")
    assert time.process_time() - started_s < 20
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 10_001
    with closing(sqlite3.connect(tmp_path / "t.db")) as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (10_000,)
