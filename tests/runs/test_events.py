"""What a run tells while it works: each event once, in order, to its listener and to log.txt, and nothing to stdout."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree

import pytest
import yaml
from plugged import call_each
from safetensors.torch import save_file
from toy_runs import call, write_spec

import crossbreed
from crossbreed.errors import InputError
from crossbreed.runs import Event, check, check_spec, dump_spec, load_spec, publish_run, report_on, run
from crossbreed.runs.checking.text import findings_text
from crossbreed.runs.events import (
    CheckpointWritten,
    EngineStarting,
    Note,
    PhaseStarting,
    PlanDescribed,
    ReportWritten,
    SplitStarting,
    TrialDone,
    WorkersReady,
)
from crossbreed.runs.record.phase import Phase
from crossbreed.runs.results.verdict import verdict_of
from crossbreed.testing.toys import load_weights


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    return write_spec(tmp_path_factory.mktemp("spec"), base=toy_base, experts=toy_adapters, trials=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> tuple[Path, list[Event]]:
    out, events = tmp_path_factory.mktemp("runs") / "run", list[Event]()
    run(load_spec(spec), out, on_event=events.append)
    return out, events


def test_a_run_tells_what_happens_in_order(finished: tuple[Path, list[Event]]) -> None:
    out, events = finished
    kinds = [type(event) for event in events if not isinstance(event, Note)]
    assert kinds == [
        PhaseStarting,
        PlanDescribed,
        PhaseStarting,
        EngineStarting,
        PhaseStarting,
        WorkersReady,
        *[TrialDone] * 8,
        PhaseStarting,
        *[TrialDone] * 2,
        SplitStarting,
        SplitStarting,
        ReportWritten,
    ]
    phases = [event.phase for event in events if isinstance(event, PhaseStarting)]
    assert phases == [Phase.SOURCES, Phase.BASELINES, Phase.CANARY, Phase.SEARCH]
    assert [event.trial.number for event in events if isinstance(event, TrialDone)] == list(range(10))
    assert [event.split for event in events if isinstance(event, SplitStarting)] == ["select", "report"]
    last = events[-2]
    assert isinstance(last, ReportWritten)
    assert last.path == out / "report.html"
    assert str(last) == f"{verdict_of(last.report)}\nreport: {out / 'report.html'}"
    assert last.path.is_file()


def test_the_library_is_silent_and_the_log_is_not(
    finished: tuple[Path, list[Event]], spec: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(load_spec(spec), tmp_path / "run")
    check_spec(load_spec(spec), answer=True)
    assert capfd.readouterr().out == ""
    log = (finished[0] / "log.txt").read_text()
    told = [line for event in finished[1][1:] for line in str(event).splitlines()]
    assert str(finished[1][0]) == "opening sources ...", "the one before the folder is known to be the run's"
    assert [line.split("Z  ", 1)[1] for line in log.splitlines()] == told


def test_a_finished_run_tells_of_its_report_alone(finished: tuple[Path, list[Event]], spec: Path) -> None:
    events: list[Event] = []
    report_on(finished[0], on_event=events.append)
    assert [type(event) for event in events] == [PhaseStarting, ReportWritten]


def test_what_a_listener_raises_ends_a_run_that_goes_on_later(
    finished: tuple[Path, list[Event]], spec: Path, tmp_path: Path
) -> None:
    def impatient(event: Event) -> None:
        if isinstance(event, TrialDone) and event.num_done == 4:
            raise TimeoutError("I have seen enough")

    with pytest.raises(TimeoutError):
        run(load_spec(spec), tmp_path / "run", on_event=impatient)
    assert "TimeoutError: I have seen enough" in (tmp_path / "run" / "log.txt").read_text()
    events: list[Event] = []
    run(load_spec(spec), tmp_path / "run", on_event=events.append)
    assert [event.trial.number for event in events if isinstance(event, TrialDone)] == list(range(4, 10))


def test_the_log_ends_with_what_stopped_a_run(spec: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="does not start"):
        run(load_spec(spec, ["fitness.engine.fail=start"]), tmp_path / "run")
    assert "the fake engine does not start" in (tmp_path / "run" / "log.txt").read_text().splitlines()[-1]


def test_a_driver_that_is_refused_writes_nothing_to_the_log(finished: tuple[Path, list[Event]], spec: Path) -> None:
    log = finished[0] / "log.txt"
    before = log.read_bytes()
    with pytest.raises(InputError, match="started with another spec"):
        run(load_spec(spec, ["seed=8"]), finished[0])
    assert log.read_bytes() == before


def test_publishing_and_merging_tell_what_was_written(finished: tuple[Path, list[Event]], tmp_path: Path) -> None:
    events: list[Event] = []
    publish_run(finished[0], tmp_path / "model", trial=1, with_scores=False, licence="mit", on_event=events.append)
    written = events[-1]
    assert isinstance(written, CheckpointWritten)
    assert (written.trial, written.folder) == (1, tmp_path / "model")
    assert str(written) == f"published trial 1 to {tmp_path / 'model'}"
    assert len(written.fingerprint) == 32


@pytest.mark.slow
def test_the_command_line_shows_what_the_events_say(spec: Path, tmp_path: Path) -> None:
    shown = call("run", spec, "--out", tmp_path / "run").stdout
    log = [line.split("Z  ", 1)[1] for line in (tmp_path / "run" / "log.txt").read_text().splitlines()]
    assert all(line in shown.splitlines() for line in log if not line.endswith("on the report items"))
    assert "Report split" in shown


def test_check_returns_what_it_found(spec: Path) -> None:
    findings = check_spec(load_spec(spec))
    assert [example.task for example in findings.examples] == ["red", "blue"]
    assert all(example.prompt.endswith(example.gold) and example.answer is None for example in findings.examples)
    assert findings.memory_bytes > findings.plan.merged_bytes > 0
    assert findings_text(findings).endswith("no problems found")
    assert findings.groups
    for group in findings.groups:
        assert f"{len(group.tensors)} tensors, as {group.tensors[0]}" in findings_text(findings)


def test_check_and_run_refuse_a_model_that_does_not_fit(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "memory_bytes", lambda: 1000)
    for start in (check_spec, partial(run, out=tmp_path / "run")):
        with pytest.raises(InputError, match="does not fit this machine's memory"):
            start(load_spec(spec))
    assert not (tmp_path / "run").exists()
    check.checked_plan(load_spec(spec, ["workers={executor: ray, address: auto}"]))  # the cluster's memory counts


def test_check_shows_a_dozen_groups_and_counts_the_rest(spec: Path) -> None:
    findings = check_spec(load_spec(spec))
    many = replace(findings, groups=findings.groups[:1] * 15, unplaced=("x.y",))
    lines = [line for line in findings_text(many).splitlines() if line.startswith(("  group", "  other"))]
    assert len(lines) == 14
    assert lines[12:] == ["  group   ... and 3 more", "  other   1 tensor of no known module type, as x.y"]
    assert findings.unplaced == ()


def test_check_shows_the_answers_of_the_base(spec: Path) -> None:
    findings = check_spec(load_spec(spec), answer=True)
    for example in findings.examples:
        assert example.value == float(example.answer == example.gold)
        assert f"base: {example.answer!r}, score {example.value:g}" in findings_text(findings)


def test_check_resolved_prints_a_spec_that_is_the_same_run(spec: Path, tmp_path: Path) -> None:
    shown = call("check", spec, "--resolved", "--set", "seed=9").stdout
    (tmp_path / "resolved.yaml").write_text(shown)
    resolved = load_spec(tmp_path / "resolved.yaml")
    assert resolved == load_spec(spec, ["seed=9"])
    assert shown == dump_spec(resolved)
    assert yaml.safe_load(shown)["workers"] == {
        "count": "auto",
        "cpus": 2.0,
        "gpus": 0.0,
        "executor": "local",
        "address": None,
        "retries": 2,
        "timeout": None,
    }


def _lasting(text: str) -> list[str]:
    """Returns the lines but those of the free space and of the time of a trial, which other processes change."""
    return [line for line in text.strip().splitlines() if "GB free" not in line and not line.startswith("  time")]


def test_the_command_line_shows_what_check_and_evaluate_return(spec: Path, toy_base: Path) -> None:
    evaluate = ("evaluate", toy_base, "--spec", spec)
    (_, checked, _), (_, shown, _), (_, lines, _) = call_each(("check", spec), (*evaluate, "--json"), evaluate)
    assert _lasting(checked) == _lasting(findings_text(check_spec(load_spec(spec))))
    found = crossbreed.evaluate(toy_base, load_spec(spec))
    assert json.loads(shown) == found.to_json()
    assert [line.split()[0] for line in lines.splitlines()] == list(found.tasks)


def test_no_weight_of_an_evaluated_checkpoint_is_rounded(spec: Path, toy_base: Path, tmp_path: Path) -> None:
    """Norms in float32 beside matrices in bfloat16: the dtype of most numbers would round them."""
    saved = load_weights(toy_base)
    norms = {name: value.float() + 0.003 for name, value in saved.items() if "norm" in name}
    wide = {name: value.float() for name, value in saved.items()}
    loaded, mixed, exact = load_spec(spec), tmp_path / "mixed", tmp_path / "exact"
    for folder, tensors in (mixed, saved), (exact, wide):
        copytree(toy_base, folder)
        save_file({**tensors, **norms}, folder / "model.safetensors")
    assert crossbreed.evaluate(mixed, loaded).fingerprint == crossbreed.evaluate(exact, loaded).fingerprint
    assert crossbreed.evaluate(toy_base, loaded).fingerprint != crossbreed.evaluate(exact, loaded).fingerprint
