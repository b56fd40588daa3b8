"""A finished run says how to go on with more trials, and the command works."""

import shlex
from pathlib import Path

import pytest
import yaml
from toy_runs import records_of, write_spec
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.errors import InputError
from crossbreed.runs import load_spec, run
from crossbreed.runs.driver import _how_to_go_on
from crossbreed.runs.events import Event, Note
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read


def test_the_closing_line_goes_on(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    name = "it's a run"
    spec = write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters, trials=4)
    told: list[Event] = []
    run(load_spec(spec), tmp_path / name, on_event=told.append)
    assert isinstance(told[-1], Note)
    said, command = str(told[-1]).split(": ", 1)
    assert said == "to go on with more trials"
    asked = [record for record in records_of(tmp_path / name) if record["kind"] == "ask"]
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0
    more = [record for record in records_of(tmp_path / name) if record["kind"] == "ask"]
    assert (more[: len(asked)], len(more)) == (asked, len(asked) + 4)
    assert f"optimizer.budget.trials={2 * 8}" in done.stdout


EXPERTS = {"one": Path("fake/one"), "two": Path("fake/two")}


def fake_spec(folder: Path, **budget: float) -> Path:
    engine = {"kind": "fake_recipes"}
    return write_spec(folder, base=Path("fake/base"), experts=EXPERTS, fitness__engine=engine, optimizer__budget=budget)


def test_the_limit_that_ended_it_is_doubled(tmp_path: Path) -> None:
    spec = fake_spec(tmp_path / "spec", trials=4, minutes=1e-6)
    told: list[Event] = []
    run(load_spec(spec), tmp_path / "run", on_event=told.append)
    command = str(told[-1]).split(": ", 1)[1]
    assert command.endswith(" --set optimizer.budget.minutes=1")
    before = len(records_of(tmp_path / "run"))
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0
    assert sum(record["kind"] == "ask" for record in records_of(tmp_path / "run")[before:]) == 4
    assert done.stdout.count("--set") == 1
    assert "--set optimizer.budget.trials=8" in done.stdout


def test_less_than_was_spent_already_is_more_than_doubled(tmp_path: Path) -> None:
    run(load_spec(fake_spec(tmp_path / "spec", trials=8)), tmp_path / "run")
    told: list[Event] = []
    run(load_spec(fake_spec(tmp_path / "spec", trials=2)), tmp_path / "run", on_event=told.append)
    assert str(told[-1]).endswith(" --set optimizer.budget.trials=16")


def test_a_search_that_has_nothing_left_to_ask_is_not_advised(tmp_path: Path) -> None:
    spec = fake_spec(tmp_path / "spec", trials=4)
    run(load_spec(spec), tmp_path / "run")
    folder, history = RunFolder(tmp_path / "run"), fold(read(tmp_path / "run/journal.jsonl"))
    for budget in ({"trials": 5}, {"minutes": 60}):
        wanted = load_spec(fake_spec(tmp_path / "spec", **budget))
        assert [*_how_to_go_on(wanted, folder, history, is_over=True)] == []


def evo_spec(folder: Path, **budget: float) -> Path:
    return write_spec(
        folder,
        base=Path("fake/base"),
        experts=EXPERTS,
        fitness__engine={"kind": "fake_recipes"},
        space={"kind": "coefficients", "operator": "lora_factors"},
        optimizer={"kind": "evo_merging", "budget": budget, "options": {"population": 4}},
    )


def test_a_budget_that_was_planned_by_stays_and_its_search_is_gone_on_with_by_a_new_run(tmp_path: Path) -> None:
    spec, told = evo_spec(tmp_path / "spec", trials=12), list[Event]()
    run(load_spec(spec), tmp_path / "run", on_event=told.append)
    assert "to go on" not in str(told[-1])
    asked = [record["point"] for record in records_of(tmp_path / "run") if record.get("point")]
    assert {len(point) for point in asked} == {4}
    assert (len({(*point[:2],) for point in asked[:4]}), len({(*point[2:],) for point in asked[4:]})) == (1, 1)
    before = records_of(tmp_path / "run")
    for trials in (24, 8):
        with pytest.raises(InputError, match="plans by its budget") as caught:
            run(load_spec(evo_spec(tmp_path / "other", trials=trials)), tmp_path / "run")
        assert "trials: 12" in caught.value.expected
    run(load_spec(evo_spec(tmp_path / "spec", trials=12, minutes=9)), tmp_path / "run")
    assert records_of(tmp_path / "run")[: len(before)] == before
    recipe = next((tmp_path / "run/recipes").iterdir())
    raw = yaml.safe_load(evo_spec(tmp_path / "spec", trials=24).read_text()) | {"warm_start": [str(recipe)]}
    spec.write_text(yaml.safe_dump(raw))
    run(load_spec(spec), tmp_path / "longer")
    assert any(record.get("origin") == "warm_start:0" for record in records_of(tmp_path / "longer"))
