"""A finished run says how to go on with more trials, and the command works."""

import shlex
from pathlib import Path

from toy_runs import records_of, write_spec
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.runs import load_spec, run
from crossbreed.runs.events import Event, Note


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
