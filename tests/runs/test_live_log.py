"""`log:` in a spec: every trial once in the logger's run, whatever happens to either; and nothing else sent."""

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from toy_runs import SKILLS, write_spec

from crossbreed.errors import EngineError, InputError, MissingExtra
from crossbreed.fitness.requests import Request, Response
from crossbreed.runs import load_spec, run
from crossbreed.runs.events import Event, TrialDone
from crossbreed.runs.loggers import live_log
from crossbreed.runs.loggers.config import LogConfig
from crossbreed.runs.loggers.sink import About
from crossbreed.runs.results.show import open_run
from crossbreed.testing.fake_recipes import FakeRecipeHandle

EXPERTS = {"one": Path("fake/one"), "two": Path("fake/two")}
TENSORBOARD = "log={to: tensorboard}"
FIRST = "optimizer.budget.trials=1"
"""Of the eight: the run is then resumed."""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    return write_spec(folder, base=Path("fake/base"), experts=EXPERTS, fitness__engine={"kind": "fake_recipes"})


class Recorded:
    """A logger's server: what was sent to it, by the run's id."""

    def __init__(self) -> None:
        self.told: list[About] = []
        self.runs: dict[str, list[tuple[int, Mapping[str, float]]]] = {}
        self.closed: list[bool] = []
        self.fails: set[int] = set()
        self.num_refused = 0
        """How often it cannot be started before it can."""
        self.ends = True
        self.gate = threading.Event()
        self.gate.set()

    def start(self, config: LogConfig, about: About) -> "RecordedSink":
        self.gate.wait()
        self.num_refused -= 1
        if self.num_refused >= 0:
            raise ConnectionError("no route")
        self.told.append(about)
        name = about.resumed_id or f"run {len(self.runs)}"
        self.runs.setdefault(name, [])
        return RecordedSink(self, name)


class RecordedSink:
    def __init__(self, server: Recorded, name: str) -> None:
        self._server, self.id = server, name

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if int(values["trial"]) in self._server.fails:
            raise ConnectionError("no route to https://me:secret@host/x")
        self._server.runs[self.id].append((step, values))

    def summarize(self, values: Mapping[str, float]) -> None:
        self._server.runs[self.id].append((0, values))

    def close(self, *, is_over: bool) -> None:
        if not self._server.ends:
            raise ConnectionError("no route")
        self._server.closed.append(is_over)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded()
    monkeypatch.setattr(live_log, "_PATIENCE_S", 60.0)
    monkeypatch.setattr(live_log, "start_sink", recorded.start)
    monkeypatch.setattr(live_log, "require_logger", lambda config: None)
    monkeypatch.setattr("crossbreed.runs.check.require_logger", lambda config: None)
    return recorded


def told_trials(server: Recorded, name: str = "run 0") -> list[int]:
    return [int(values["trial"]) for step, values in server.runs[name] if step]


def test_every_trial_once_and_the_report(spec: Path, server: Recorded, tmp_path: Path) -> None:
    report = run(load_spec(spec, [TENSORBOARD]), tmp_path / "run")
    trials = open_run(tmp_path / "run").trials
    assert told_trials(server) == [trial.number for trial in trials]
    assert [step for step, _ in server.runs["run 0"][:-1]] == list(range(1, 17))
    values = dict(server.runs["run 0"][9][1])
    assert values["objective/mean of red_ blue"] == trials[9].objectives[0]
    assert [values[f"task/{skill}"] for skill in SKILLS] == [trials[9].score.tasks[skill].mean for skill in SKILLS]
    assert values["best/mean of red_ blue"] == max(trial.objectives[0] for trial in trials[:10])
    assert server.runs["run 0"][-1][1]["report/score"] == report.winner.value.mean
    assert server.closed == [True]


def test_a_run_that_goes_on_continues_the_loggers_run(spec: Path, server: Recorded, tmp_path: Path) -> None:
    run(load_spec(spec, [TENSORBOARD, FIRST]), tmp_path / "run")
    with (tmp_path / "run/logged.jsonl").open("r+") as file:  # killed before the last trial was sent
        lines = file.readlines()
        file.seek(0)
        file.truncate()
        file.writelines(line.replace(', "status": "OK"', "") for line in lines[:-1])  # an older version wrote no status
    assert server.runs["run 0"].pop(-2)[1]["trial"] == 8
    run(load_spec(spec, [TENSORBOARD]), tmp_path / "run")
    assert list(server.runs) == ["run 0"]
    assert sorted(told_trials(server)) == list(range(16))
    assert [about.resumed_id for about in server.told] == [None, "run 0"]


def test_a_trial_that_failed_is_logged_again_once_it_is_measured(
    spec: Path, server: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(load_spec(spec, [FIRST]), tmp_path / "whole")
    broken = open_run(tmp_path / "whole").trials[8].score.fingerprint
    answer = FakeRecipeHandle.answer

    def breaks(handle: FakeRecipeHandle, requests: Sequence[Request]) -> list[Response]:
        if handle.fingerprint == broken:
            raise EngineError("no answer")
        return answer(handle, requests)

    with monkeypatch.context() as patch:
        patch.setattr(FakeRecipeHandle, "answer", breaks)
        for trials in (1, 2):  # evaluated again in vain by the second, and not logged again
            run(load_spec(spec, [TENSORBOARD, f"optimizer.budget.trials={trials}"]), tmp_path / "run")
    assert told_trials(server).count(8) == 1
    run(load_spec(spec, [TENSORBOARD, "optimizer.budget.trials=3"]), tmp_path / "run")
    told = [values for step, values in server.runs["run 0"] if step and values["trial"] == 8]
    assert [values["is_ok"] for values in told] == [0.0, 1.0]
    assert sorted(told_trials(server)) == sorted([*range(11), 8])


def test_it_may_be_turned_on_later_and_then_tells_all(spec: Path, server: Recorded, tmp_path: Path) -> None:
    run(load_spec(spec, [FIRST]), tmp_path / "run")
    assert not server.runs
    run(load_spec(spec, [TENSORBOARD]), tmp_path / "run")
    assert told_trials(server) == list(range(16))
    run(load_spec(spec, ["log={to: wandb}", "optimizer.budget.trials=9"]), tmp_path / "run")
    assert told_trials(server, "run 1") == list(range(17)), "another logger begins a run of its own"
    assert "tensorboard" not in (tmp_path / "run/journal.jsonl").read_text()


def test_what_a_logger_raises_is_said_once_and_counted(spec: Path, server: Recorded, tmp_path: Path) -> None:
    server.fails = {3, 5}
    events: list[Event] = []
    run(load_spec(spec, [TENSORBOARD]), tmp_path / "run", on_event=events.append)
    notes = [str(event) for event in events if "logging to" in str(event) or "not logged" in str(event)]
    said = "logging to tensorboard failed, and the run goes on: ConnectionError: no route to https://host/x"
    assert notes[:-1] == [said]
    assert "2 of 17 entries were not logged to tensorboard: ConnectionError" in notes[-1]
    assert "secret" not in (tmp_path / "run/log.txt").read_text()
    assert told_trials(server) == [n for n in range(16) if n not in server.fails]


def test_a_logger_that_came_late_has_all(spec: Path, server: Recorded, tmp_path: Path) -> None:
    server.num_refused = 2
    events: list[Event] = []
    run(load_spec(spec, [TENSORBOARD]), tmp_path / "run", on_event=events.append)
    assert told_trials(server) == list(range(16))
    assert not [str(event) for event in events if "not logged" in str(event)]


def test_a_logger_that_does_not_end_is_said_to_have_all(spec: Path, server: Recorded, tmp_path: Path) -> None:
    server.ends = False
    events: list[Event] = []
    run(load_spec(spec, [TENSORBOARD]), tmp_path / "run", on_event=events.append)
    said = "all entries were logged, but their run was not ended in tensorboard: ConnectionError: no route"
    assert str(events[-1]).startswith(said)


def test_a_logger_that_hangs_holds_no_run_up(
    spec: Path, server: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_log, "_PATIENCE_S", 0.05)
    server.gate.clear()
    events: list[Event] = []
    run(load_spec(spec, [TENSORBOARD]), tmp_path / "run", on_event=events.append)
    assert sum(isinstance(event, TrialDone) for event in events) == 16
    assert "17 of 17 entries were not logged to tensorboard, which did not answer" in str(events[-1])
    assert str(events[-1]).endswith("(the same command logs what is missing)")
    monkeypatch.setattr(live_log, "_PATIENCE_S", 60.0)
    server.gate = threading.Event()  # the first thread, which would have ended with its process, waits at the old one
    server.gate.set()
    run(load_spec(spec, [TENSORBOARD]), tmp_path / "run")
    assert told_trials(server) == list(range(16))


def test_no_path_is_told(spec: Path, server: Recorded, tmp_path: Path) -> None:
    run(load_spec(spec, [TENSORBOARD, FIRST]), tmp_path / "run")
    assert not [value for value in server.told[0].settings.values() if os.sep in value]


def test_a_secret_in_the_spec_is_refused_and_not_repeated(spec: Path, tmp_path: Path) -> None:
    told = spec.read_text() + "log: {to: mlflow, uri: 'https://me:secret@host/x'}\n"
    (tmp_path / "spec.yaml").write_text(told)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as error:
        load_spec(tmp_path / "spec.yaml")
    assert "secret@" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{to: wandbb}", "did you mean `wandb`"),
        ("mlflow", r"write log: \{to: mlflow\}"),
        ("{uri: x}", r"\{to: mlflow\} or "),
        ("[wandb]", "names no logger"),
        ("{to: mlflow, url: x}", "did you mean `uri`"),
    ],
)
def test_what_is_no_logger_is_refused(spec: Path, given: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_spec(spec, [f"log={given}"])


PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


@pytest.mark.parametrize("to", PACKAGES)
def test_without_its_package_nothing_starts(
    to: str, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[to], None)
    with pytest.raises(MissingExtra, match=rf"crossbreed\[{to}\]"):
        run(load_spec(spec, [f"log={{to: {to}}}"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package is imported and a store is made within a run of a second."""
    monkeypatch.setattr(live_log, "_PATIENCE_S", 120.0)


def logged_twice(spec: Path, out: Path, log: str) -> list[str]:
    """Runs and resumes a run; returns its notes."""
    events: list[Event] = []
    for overrides in ([log, FIRST], [log]):
        run(load_spec(spec, overrides), out, on_event=events.append)
    return [str(event) for event in events if "logging to" in str(event) or "not logged" in str(event)]


def best_so_far(out: Path) -> list[float]:
    values = [trial.objectives[0] for trial in open_run(out).trials if trial.objectives]
    return [max(values[: n + 1]) for n in range(len(values))]


def test_tensorboard_shows_the_run(spec: Path, tmp_path: Path, patient: None) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert logged_twice(spec, tmp_path / "run", TENSORBOARD) == []
    shown = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    points = shown.Scalars("best/mean of red_ blue")
    assert [point.step for point in points] == list(range(1, 17))
    assert [point.value for point in points] == pytest.approx(best_so_far(tmp_path / "run"))


def test_mlflow_shows_the_run(spec: Path, tmp_path: Path, patient: None) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert logged_twice(spec, tmp_path / "run", f"log={{to: mlflow, uri: '{uri}'}}") == []
    client = mlflow.MlflowClient(uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "toy"]
    (found,) = client.search_runs([experiment.experiment_id])
    points = client.get_metric_history(found.info.run_id, "best/mean of red_ blue")
    assert [point.value for point in points] == best_so_far(tmp_path / "run")
    assert (found.info.status, found.data.params["optimizer"]) == ("FINISHED", "cma_es")


def test_wandb_keeps_the_run_offline(spec: Path, tmp_path: Path, patient: None) -> None:
    pytest.importorskip("wandb")
    assert logged_twice(spec, tmp_path / "run", "log={to: wandb, mode: offline}") == []
    files = [path.name for path in (tmp_path / "run/wandb").rglob("run-*.wandb")]
    assert len(files) == 2
    assert len(set(files)) == 1, "one id: `wandb sync` makes one run of both"
