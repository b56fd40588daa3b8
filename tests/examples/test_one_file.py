"""The example in one file: what it says of itself is so."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from crossbreed.cli import main as command_line
from crossbreed.runs import Event
from crossbreed.runs.events import ReportWritten, TrialDone
from crossbreed.runs.record.journal import read
from crossbreed.runs.record.records import without_clock

EXAMPLE = Path(__file__).parents[2] / "examples/one_file.py"


@pytest.fixture(scope="module")
def one_file() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("one_file", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["one_file"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["one_file"]


@pytest.fixture(scope="module")
def finished(one_file: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_file")
    one_file.main(folder, on_event=lambda event: None)
    return folder


def journal_of(folder: Path) -> list[dict[str, Any]]:
    return [without_clock(record) for record in read(folder / "run/journal.jsonl")]


def test_the_winner_beats_every_baseline(finished: Path) -> None:
    report = json.loads((finished / "run/report.json").read_text())
    assert report["difference_to_best_baseline"]["low"] > 0
    assert report["difference_to_tuned_scalar"]["low"] > 0
    assert report["winner"]["origin"] == "object"
    assert report["winner"]["n"] == 200


def test_the_experts_were_not_trained_on_what_is_asked(one_file: ModuleType) -> None:
    for skill in one_file.SKILLS:
        asked = {item.fields["answer"] for item in one_file.Spelling(name=skill).load_items()}
        assert asked.isdisjoint(line["answer"] for line in one_file.lines(skill)[::2])


def test_killed_and_started_again_it_ends_alike(one_file: ModuleType, finished: Path, tmp_path: Path) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, TrialDone) and event.num_done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one_file.main(tmp_path, on_event=kill)
    one_file.main(tmp_path, on_event=lambda event: None)
    assert journal_of(tmp_path) == journal_of(finished)


def test_given_once_more_it_is_found_finished(one_file: ModuleType, finished: Path) -> None:
    before, events = (finished / "run/journal.jsonl").read_bytes(), list[Event]()
    one_file.main(finished, on_event=events.append)
    assert not any(isinstance(event, TrialDone) for event in events)
    assert isinstance(events[-1], ReportWritten)
    assert (finished / "run/journal.jsonl").read_bytes() == before


def test_the_command_line_shows_it(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["crossbreed", "show", str(finished / "run")])
    with pytest.raises(SystemExit) as ended:
        command_line()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("spelling: finished, 68 trials")
