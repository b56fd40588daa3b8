"""Outages are not measurements: they stop a run, cost no budget, and the same command goes on as if there were none."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from failing_workers import fails
from toy_runs import journal_of, records_of, write_spec

from crossbreed.errors import MachineError
from crossbreed.runs import build_plan, load_spec, report_on, run
from crossbreed.runs.events import Event
from crossbreed.runs.publishing.publish_run import _recorded
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.runs.results.winner import recorded_winner
from crossbreed.runs.search.outage import Outage
from crossbreed.runs.search.pool import Job, JobResult
from crossbreed.runs.search.stopwatch import Stopwatch
from crossbreed.runs.workers.deadlines import MIN_S, UNKNOWN_S, Deadlines
from crossbreed.runs.workers.worker import Worker
from crossbreed.types import Score, Status

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "cma_es": {"kind": "cma_es", "options": {"popsize": 4}},
    "gp": {"kind": "gp", "options": {"startup": 4}},
    "nsga2": {"kind": "nsga2", "options": {"population": 4}},
    "random": {"kind": "random"},
}


@pytest.fixture(scope="module")
def make_spec(
    tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]
) -> Callable[[str], Path]:
    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("spec")
        optimizer = {**OPTIMIZERS[kind], "budget": {"trials": 10}}
        return write_spec(folder, base=toy_base, experts=toy_adapters, optimizer=optimizer)

    return make


IN_ORDER = ("cma_es", "nsga2")
"""The optimizers that hear outcomes in the order of their candidates."""


def statuses(out: Path) -> dict[int, str]:
    """Returns the last status of each trial in the search."""
    return {r["number"]: r["status"] for r in records_of(out) if r.get("split") == "search"}


KINDS = ["nsga2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("cma_es", "gp", "random"))]


@pytest.mark.parametrize("kind", KINDS)
def test_an_outage_stops_the_search_and_leaves_no_trace(
    kind: str, make_spec: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the twelfth answer on nothing can be measured: as if the driver had been killed then."""
    spec = load_spec(make_spec(kind), ["workers.retries=0"])
    run(spec, tmp_path / "whole")
    with monkeypatch.context() as patch:
        answers = itertools.count()
        fails(patch, lambda job: next(answers) >= 11)
        for _ in range(2):  # calling again meanwhile changes nothing
            with pytest.raises(MachineError, match=r"[34] trials in a row could not be measured: .*CUDA out of memory"):
                run(spec, tmp_path / "run")
    stopped = records_of(tmp_path / "run")
    assert all(record["status"] == "OK" for record in stopped if record["kind"] == "tell")
    assert stopped[-1]["kind"] == "ask"
    run(spec, tmp_path / "run")
    whole, found = journal_of(tmp_path / "whole"), journal_of(tmp_path / "run")
    if kind in IN_ORDER:
        assert found == whole
    elif kind == "random":
        assert sorted(map(str, found)) == sorted(map(str, whole)), "asked before others were told, and the same"
    told = [record for record in found if record["kind"] == "tell" and record["split"] == "search"]
    assert len(told) == 18
    assert {record["status"] for record in told} == {"OK"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_whose_candidates_all_fail_ends_and_goes_on(
    kind: str, make_spec: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even while the baselines could be measured: what FAILED is asked again, and none of it counts."""
    spec = load_spec(make_spec(kind), ["workers.retries=0"])
    with monkeypatch.context() as patch:
        fails(patch, lambda job: job.number >= 11)
        nums = [11]
        for _ in range(2):
            with pytest.raises(
                MachineError, match=r"none of the last \d+ candidates could be measured, but the engine"
            ):
                run(spec, tmp_path / "run")
            told = statuses(tmp_path / "run")
            nums.append(len(told))
            assert told == {number: "OK" if number < 11 else "FAILED" for number in range(nums[-1])}
    assert nums == sorted({*nums}), "it asks others than before: no row of bad candidates blocks a run for ever"
    run(spec, tmp_path / "run")
    assert set(statuses(tmp_path / "run").values()) == {"OK"}


def test_candidates_that_always_fail_do_not_block_a_run(
    make_spec: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a row, whether they follow each other within a search or are asked again first when it goes on."""
    spec = load_spec(make_spec("random"), ["workers.retries=0"])
    bad = {9, 10, 11, 12, 14}
    fails(monkeypatch, lambda job: job.split == "search" and job.number in bad)
    run(spec, tmp_path / "run")
    run(load_spec(tmp_path / "run" / "spec.yaml", ["optimizer.budget.trials=14"]), tmp_path / "run")
    told = statuses(tmp_path / "run")
    assert {number for number, status in told.items() if status == "FAILED"} == bad
    assert len(told) == 8 + 14 + len(bad)


def test_a_candidate_that_kills_its_engine_is_failed_and_costs_no_budget(
    make_spec: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_spec(make_spec("random"), ["workers.retries=0"])
    with monkeypatch.context() as patch:
        fails(patch, lambda job: job.split == "search" and job.number in (2, 10, 12, 13))
        run(spec, tmp_path / "run")
    told = {r["number"]: r["status"] for r in records_of(tmp_path / "run") if r.get("split") == "search"}
    assert [number for number, status in told.items() if status == "FAILED"] == [2, 10, 12, 13]
    assert len(told) == 8 + 10 + 3, "each of the three is made up for"
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    run(spec, tmp_path / "run")
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before, "a finished search is not gone on with"
    run(load_spec(tmp_path / "run" / "spec.yaml", ["optimizer.budget.trials=14"]), tmp_path / "run")
    again = [r for r in records_of(tmp_path / "run") if r.get("split") == "search"][len(told) :]
    assert [(r["number"], r["status"]) for r in again[:4]] == [(n, "OK") for n in (2, 10, 12, 13)]
    assert len(again) == 5, "the four that were measured now count, so that one was to be asked"


@pytest.mark.slow
@pytest.mark.parametrize("split", ["select", "report"])
def test_an_outage_after_the_search_is_not_the_end_of_the_run(
    split: str, make_spec: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_spec(make_spec("random"), ["workers.retries=0"])
    with monkeypatch.context() as patch:
        fails(patch, lambda job: job.split == split)
        for command in (lambda: run(spec, tmp_path / "run"), lambda: report_on(tmp_path / "run")):
            with pytest.raises(MachineError, match="CUDA out of memory"):
                command()
    stopped = records_of(tmp_path / "run")
    assert {record["status"] for record in stopped if record["kind"] == "tell"} == {"OK"}
    assert stopped[-1]["kind"] == "tell"
    assert not (tmp_path / "run" / "report.json").exists()
    report = run(spec, tmp_path / "run")
    assert report.unmeasured == {}
    assert journal_of(tmp_path / "run")[: len(stopped)] == [
        {key: value for key, value in record.items() if key != "clock"} for record in stopped
    ]


def test_a_baseline_that_cannot_be_measured_is_said_in_the_report_and_tried_again(
    make_spec: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, notes = load_spec(make_spec("random"), ["workers.retries=0"]), list[Event]()
    with monkeypatch.context() as patch:
        fails(patch, lambda job: job.split == "report" and job.number == 1)
        report = run(spec, tmp_path / "run", on_event=notes.append)
        why = "baseline:expert:plain could not be measured on the report split, on which others can be: "
        assert report.unmeasured == {"plain": f"not on the report split: {why}EngineError: CUDA out of memory"}
        assert "plain" not in {row.name for row in report.rows}
        assert any(f"trial 1 is left out of the result: {why}" in str(note) for note in notes)
    reported = [r["number"] for r in records_of(tmp_path / "run") if r.get("split") == "report"]
    assert len(reported) >= 4
    assert 1 not in reported
    report_on(tmp_path / "run")
    added = [r["number"] for r in records_of(tmp_path / "run") if r.get("split") == "report"][len(reported) :]
    assert added == [1]


def judged(out: Path, split: str) -> set[int]:
    return {record["number"] for record in records_of(out) if record.get("split") == split}


def test_finalists_that_cannot_be_measured_do_not_win_and_the_rest_is_reported(
    make_spec: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if so many FAILED in a row, before any was measured, that it looks like an outage."""
    spec, out, bad = load_spec(make_spec("random"), ["workers.retries=0"]), tmp_path / "run", list[int]()

    def is_bad(job: Job) -> bool:
        if job.split == "select" and len(bad) < 4 and job.number not in bad:
            bad.append(job.number)
        return job.split == "select" and job.number in bad

    fails(monkeypatch, is_bad)
    report = run(spec, out)
    assert len(bad) == len(judged(out, "select")) == 4
    assert not {report.winner.number, *judged(out, "select")}.intersection(bad)
    log = (out / "log.txt").read_text()
    assert all(f"trial {number} is left out of the result: " in log for number in bad)
    before = (out / "journal.jsonl").read_bytes()
    assert report_on(out)[1].winner.number == report.winner.number, "later commands end as this one"
    assert (out / "journal.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_winner_that_cannot_be_measured_on_the_report_split_is_none(
    make_spec: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, out = load_spec(make_spec("random"), ["workers.retries=0"]), tmp_path / "run"
    first = run(spec, tmp_path / "whole").winner.number
    fails(monkeypatch, lambda job: job.split == "report" and job.number == first)
    report = run(spec, out)
    assert report.winner.number in judged(tmp_path / "whole", "select") - {first}
    assert f"trial {first} is left out of the result: " in (out / "log.txt").read_text()
    assert _recorded(build_plan(spec, searches=False), out, None, is_dry=False) == report.winner.number
    with pytest.raises(MachineError, match="could not be measured on the report split"):
        report_on(out, trial=first)


def are_invalid(patch: pytest.MonkeyPatch, when: Callable[[Job], bool]) -> None:
    """Lets the jobs that `when` picks have NaN in their logits, as float16 has where a prompt is long."""
    evaluate = Worker.evaluate

    def measured(self: Worker, job: Job) -> Score:
        return Score(status=Status.INVALID, error="task `red`: NaN") if when(job) else evaluate(self, job)

    patch.setattr(Worker, "evaluate", measured)


@pytest.mark.parametrize("split", ["report", pytest.param("select", marks=pytest.mark.slow)])
def test_a_model_that_is_invalid_on_later_items_does_not_win(
    split: str, make_spec: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was measured, and has no value there: the next best is reported, by every command, and nothing is lost."""
    spec, out = load_spec(make_spec("random")), tmp_path / "run"
    first = run(spec, tmp_path / "whole").winner.number
    are_invalid(monkeypatch, lambda job: job.split == split and job.number == first)
    report = run(spec, out)
    assert report.winner.number in judged(tmp_path / "whole", "select") - {first}
    assert f"has no value on the {split} split: task `red`: NaN" in (out / "log.txt").read_text()
    before = (out / "journal.jsonl").read_bytes()
    assert report_on(out)[1].winner.number == report.winner.number
    assert (out / "journal.jsonl").read_bytes() == before
    for history in (fold(read(out / "journal.jsonl")), fold(list(read(out / "journal.jsonl"))[:-1])):
        winner = recorded_winner(history, build_plan(spec, searches=False).objectives)
        assert winner is not None
        assert winner.number == report.winner.number
    if split == "report":
        with pytest.raises(MachineError, match="has no value on the report split"):
            report_on(out, trial=first)


def test_where_no_finalist_has_a_value_another_trial_can_be_reported(
    make_spec: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, out = load_spec(make_spec("random")), tmp_path / "run"
    are_invalid(monkeypatch, lambda job: job.split == "select")
    for _ in range(2):
        with pytest.raises(
            MachineError, match=r"(?s)no finalist has a value .* log.txt says why.*report RUN --trial N"
        ):
            run(spec, out)
    assert "has no value on the select split: task `red`: NaN" in (out / "log.txt").read_text()
    assert report_on(out, trial=0)[1].winner.number == 0


def answered(number: int, status: Status) -> JobResult:
    score = Score(status=status, error="no answer" if status is Status.FAILED else None)
    return JobResult(job=Job(number=number, split="search", recipe=None), score=score)


def test_as_many_as_workers_may_fail_by_one_fault() -> None:
    outage = Outage()
    for _ in range(5):
        outage.submitted()
    for number in range(5):
        assert outage.hear(answered(number, Status.FAILED)) == ()
        outage.submitted()
    with pytest.raises(MachineError, match="6 trials in a row"):
        outage.hear(answered(5, Status.FAILED))


def test_a_full_row_waits_for_a_proof() -> None:
    outage = Outage(can_prove=True)
    heard = [answered(number, Status.FAILED) for number in range(3)]
    for each in heard:
        assert not outage.needs_proof
        outage.submitted()
        assert outage.hear(each) == ()
    assert outage.needs_proof
    outage.submitted(is_proof=True)
    assert outage.is_proving
    assert outage.hear(proof := answered(9, Status.OK), is_proof=True) == [*heard, proof]
    assert not outage.needs_proof
    assert not outage.is_proving


def test_what_failed_before_says_nothing_when_it_fails_again() -> None:
    outage = Outage()
    for number in range(9):
        outage.submitted()
        assert outage.hear(answered(number, Status.FAILED), is_known=True) == ()


def test_failures_are_the_candidates_own_once_another_is_measured() -> None:
    outage = Outage()
    heard = [answered(0, Status.FAILED), answered(1, Status.FAILED), answered(2, Status.INVALID)]
    for each in heard[:2]:
        outage.submitted()
        assert outage.hear(each) == ()
    outage.submitted()
    assert outage.hear(heard[2]) == heard


def test_an_hour_of_outage_is_no_time_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("crossbreed.runs.search.stopwatch.time.monotonic", lambda: now)
    stopwatch = Stopwatch(before_s=5.0)
    stopwatch.submitted(0)
    now += 10.0
    stopwatch.answered()
    stopwatch.submitted(1)
    now += 3610.0
    stopwatch.answered(lost_s=3600.0)
    assert stopwatch.elapsed_s == 5.0 + 20.0


def test_a_deadline_is_learnt_or_set() -> None:
    deadlines = Deadlines()
    assert deadlines.of("search") == UNKNOWN_S
    for seconds in (1.0, 2.0, 50.0):
        deadlines.took("search", seconds)
    assert deadlines.of("search") == MIN_S
    for seconds in (60.0, 60.0, 60.0, 60.0):
        deadlines.took("search", seconds)
    assert deadlines.of("search") == 20 * 60.0
    assert deadlines.of("report") == UNKNOWN_S
    fixed = Deadlines(3.0)
    fixed.took("search", 60.0)
    assert fixed.of("search") == fixed.of("start") == 3.0
