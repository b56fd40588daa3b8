"""Whole runs with constraints, lengths and objectives that are relative to baselines."""

import json
from pathlib import Path
from typing import Any

import pytest
from failing_workers import fails
from toy_runs import journal_of, write_spec

from crossbreed.constraints import violation_of
from crossbreed.errors import EngineError, InputError, MachineError
from crossbreed.runs import check_spec, load_spec, run
from crossbreed.runs.checking.text import findings_text
from crossbreed.runs.plan import Plan
from crossbreed.runs.results.compare import compare
from crossbreed.runs.results.show import open_run, show_json, show_text
from crossbreed.runs.search.pool import Job, JobResult
from crossbreed.runs.workers.worker import Worker
from crossbreed.types import Score, Status

KEEP_BLUE = {"task": "blue", "at_least": "25% base"}
SHORT = {"length": "red", "at_most": 3}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    """A run that unlearns red, in which a quarter of what the base knows of blue is kept."""
    folder = tmp_path_factory.mktemp("constrained")
    path = write_spec(
        folder,
        base=toy_base,
        experts=toy_adapters,
        trials=6,
        fitness__objectives=[{"task": "red", "minimize": True}],
        fitness__constraints=[KEEP_BLUE, SHORT],
    )
    run(load_spec(path), folder / "run")
    return folder


def test_the_winner_keeps_the_constraints_and_the_report_says_so(finished: Path) -> None:
    found = open_run(finished / "run")
    trials = {trial.number: trial for trial in found.trials}
    base = trials[0].score.tasks["blue"].mean
    broken = {n for n, t in trials.items() if t.score.tasks["blue"].mean < base / 4 - 1e-9}
    assert broken == {n for n, t in trials.items() if violation_of(t.excesses)}
    assert broken
    assert len(broken) < len(trials)
    report = json.loads((finished / "run/report.json").read_text())
    assert report["winner"]["number"] not in broken
    told = report["winner"]["constraints"]
    assert [one["name"] for one in told] == ["blue at least 25% base", "length of red at most 3"]
    assert told[1]["answer"] == "holds"
    assert report["trials_keeping_constraints"] == len(trials) - len(broken)
    best = show_json(finished / "run")["best"]
    assert best == report["winner"]["number"] or best[0] not in broken
    text = show_text(finished / "run")
    assert f"{len(trials) - len(broken)} of {len(trials)} trials keep all constraints" in text


@pytest.mark.parametrize("num_tells", [3, pytest.param(11, marks=pytest.mark.slow)])
def test_a_run_that_was_cut_goes_on_the_same(finished: Path, tmp_path: Path, num_tells: int) -> None:
    """Among the baselines, by which candidates are judged, and in the search."""
    again = tmp_path / "run"
    again.mkdir()
    lines = (finished / "run/journal.jsonl").read_text().splitlines(keepends=True)
    tells = [place for place, line in enumerate(lines) if json.loads(line)["kind"] == "tell"]
    (again / "journal.jsonl").write_text("".join(lines[: tells[num_tells - 1] + 1]))
    run(load_spec(finished / "spec.yaml"), again)
    assert journal_of(again) == journal_of(finished / "run")


def relative_spec(folder: Path, toy_base: Path, toy_adapters: dict[str, Path], **changes: Any) -> Path:
    return write_spec(folder, base=toy_base, experts=toy_adapters, trials=2, **changes)


def test_a_run_whose_experts_add_nothing_ends_after_the_baselines(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    """By name, again and again; what was measured is shown."""
    objectives = [{"mean": ["red", "blue"], "relative_to": "experts"}]
    path = relative_spec(tmp_path, toy_base, toy_adapters, fitness__objectives=objectives)
    for _ in range(2):
        with pytest.raises(InputError, match="at task `red` no expert is better than the base"):
            run(load_spec(path), tmp_path / "run")
    kinds = [record["kind"] for record in journal_of(tmp_path / "run")]
    assert kinds == ["run", *["ask", "tell"] * 8]
    assert "baseline:uniform" in show_text(tmp_path / "run")


def test_a_run_relative_to_the_base_ends_with_its_report(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    objectives = [{"mean": ["blue", "red"], "weights": [1, -0.5], "relative_to": "base"}]
    path = relative_spec(
        tmp_path,
        toy_base,
        toy_adapters,
        fitness__objectives=objectives,
        fitness__constraints=[{"task": "blue", "at_most": 0.2}],
    )
    text = findings_text(check_spec(load_spec(path)))
    assert "keep    blue at most 0.2" in text
    assert "its answers to the same items decide on mean of 1 blue, -0.5 red over the base" in text
    report = run(load_spec(path), tmp_path / "run")
    base = next(row for row in report.baselines if row.name == "base")
    assert base.value.mean == base.value.low == base.value.high == 0
    assert report.winner.number != base.number  # the only one that breaks the constraint
    values = {t.number: t.objectives for t in open_run(tmp_path / "run").trials}
    assert values[base.number] == (0.0,)
    recorded = [r["objectives"] for r in journal_of(tmp_path / "run") if r["kind"] == "tell"]
    assert recorded[0] != [0.0]  # what its tasks alone give
    [found] = compare([f"{tmp_path / 'run'}", f"{tmp_path / 'run'}:base"])
    [line] = found.objectives
    assert line.second == 0
    assert line.first == pytest.approx(report.winner.value.mean)


class Two:
    """A pool of two workers in this process: of two jobs, it answers the later one first."""

    def __init__(self, plan: Plan) -> None:
        self._worker, self._jobs = Worker(plan), list[Job]()

    @property
    def idle(self) -> bool:
        return len(self._jobs) < 2

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def wait(self) -> JobResult:
        job = self._jobs.pop()
        try:
            score = self._worker.evaluate(job)
        except EngineError as error:
            score = Score(status=Status.FAILED, error=str(error))
        return JobResult(job=job, score=score)

    def close(self) -> None:
        self._worker.close()


def test_a_baseline_that_failed_is_waited_for_by_all_workers(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says that the same command evaluates it again: with several workers, too."""
    monkeypatch.setattr("crossbreed.runs.session.start_pool", lambda plan, *others: Two(plan))
    objectives = [{"mean": ["red", "blue"], "relative_to": "base"}]
    path = relative_spec(tmp_path, toy_base, toy_adapters, fitness__objectives=objectives)
    with monkeypatch.context() as patch:
        fails(patch, lambda job: job.number == 0)
        with pytest.raises(MachineError, match="the same command evaluates it again"):
            run(load_spec(path), tmp_path / "run")
    status = {r["number"]: r["status"] for r in journal_of(tmp_path / "run") if r["kind"] == "tell"}
    assert status.pop(0) == "FAILED"
    assert {*status.values()} == {"OK"}
    assert run(load_spec(path), tmp_path / "run").is_over
