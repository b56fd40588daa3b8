"""Law 2: kill at any byte, run the same command again, same journal."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from forked import IMPORTED_BY_RUNS
from toy_runs import SKILLS, journal_of, records_of, start, trials_of, write_spec

from crossbreed.runs import load_spec, run

NUM_KILLS = 20
NUM_TRIALS = 40


def drive(spec: Path, out: Path, overrides: tuple[str, ...] = ()) -> None:
    """What a driver process does."""
    run(load_spec(spec, overrides), out)


def started(spec: Path, out: Path, *overrides: str) -> multiprocessing.process.BaseProcess:
    """A driver in a process of its own, forked from one that has the imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_BY_RUNS)
    process = context.Process(target=drive, args=(spec, out, overrides))
    process.start()
    return process


def size(out: Path) -> int:
    journal = out / "journal.jsonl"
    return journal.stat().st_size if journal.exists() else 0


def kill_at(process: multiprocessing.process.BaseProcess, out: Path, num_bytes: int, extra_s: float) -> bool:
    """Kills the driver once its journal has grown to `num_bytes`; returns whether it was still alive."""
    while process.is_alive() and size(out) < num_bytes:
        time.sleep(0.001)
    time.sleep(extra_s)
    was_alive = process.is_alive()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return was_alive


def wait(process: multiprocessing.process.BaseProcess) -> None:
    process.join(timeout=600)
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    engine = {"kind": "fake", "delay_s": 0.01}
    return write_spec(folder, base=toy_base, experts=toy_adapters, trials=NUM_TRIALS - 8, fitness__engine=engine)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    wait(started(spec, out))
    return out


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 11))])
def test_twenty_kills_change_nothing(spec: Path, whole: Path, tmp_path: Path, seed: int) -> None:
    rng, out, num_killed = random.Random(seed), tmp_path / "killed", 0
    moments = sorted(rng.randrange(size(whole)) for _ in range(NUM_KILLS))
    for moment in moments:
        num_killed += kill_at(started(spec, out), out, moment, rng.uniform(0, 0.05))
    wait(started(spec, out))
    assert num_killed >= NUM_KILLS - 2  # the last moments may fall on the run's end
    assert journal_of(out) == journal_of(whole)
    assert sum(record["kind"] == "ask" for record in records_of(out)) == NUM_TRIALS


@pytest.mark.parametrize("seed", range(4))
def test_a_journal_cut_anywhere_grows_back(spec: Path, whole: Path, tmp_path: Path, seed: int) -> None:
    content = (whole / "journal.jsonl").read_bytes()
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "journal.jsonl").write_bytes(content[: random.Random(seed).randrange(len(content))])
    wait(started(spec, cut))
    assert journal_of(cut) == journal_of(whole)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("fractions", [(0.5,), (0.3, 0.7)])
def test_kills_change_nothing_with_ray_workers(
    spec: Path, whole: Path, tmp_path: Path, fractions: tuple[float, ...]
) -> None:
    rng, out = random.Random(2), tmp_path / "killed"
    ray = ("workers.executor=ray", "workers.cpus=1", "workers.count=1")
    for fraction in fractions:
        assert kill_at(started(spec, out, *ray), out, int(fraction * size(whole)), rng.uniform(0, 0.05))
    wait(started(spec, out, *ray))
    assert journal_of(out) == journal_of(whole)


@pytest.mark.engine
@pytest.mark.slow
def test_the_search_outlives_failed_trials_of_its_only_worker(spec: Path, tmp_path: Path) -> None:
    ray = ("workers.executor=ray", "workers.cpus=1", "workers.count=1", "workers.retries=0")
    failing = ("fitness.engine.fail=answer", "fitness.engine.fail_at=40")
    wait(started(spec, tmp_path / "run", *ray, *failing))
    told = [r for r in records_of(tmp_path / "run") if r["kind"] == "tell" and r["split"] == "search"]
    assert sum(record["status"] == "OK" for record in told) == NUM_TRIALS, "what FAILED costs no budget"
    assert {record["status"] for record in told} == {"OK", "FAILED"}


@pytest.mark.engine
def test_two_workers_give_the_trials_of_one(spec: Path, whole: Path, tmp_path: Path) -> None:
    wait(started(spec, tmp_path / "two", "workers.executor=ray", "workers.cpus=1", "workers.count=2"))
    assert trials_of(tmp_path / "two") == trials_of(whole)
    workers = {r["clock"]["worker"] for r in records_of(tmp_path / "two") if r["kind"] == "tell"}
    assert len(workers) == 2


@pytest.mark.engine
@pytest.mark.slow
def test_two_workers_give_the_trials_of_one_with_a_model(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    tasks = [{"name": skill, "kind": "perplexity", "items": f"{skill}.jsonl", "text": "q"} for skill in SKILLS]
    spec = write_spec(
        tmp_path / "spec",
        base=toy_base,
        experts=toy_adapters,
        trials=4,
        fitness__engine={"kind": "transformers", "dtype": "bfloat16"},
        fitness__tasks=tasks,
        fitness__split={"search": 4, "select": 4, "report": 4},
    )
    wait(started(spec, tmp_path / "one"))
    wait(started(spec, tmp_path / "two", "workers.executor=ray", "workers.cpus=1", "workers.count=2"))
    assert trials_of(tmp_path / "two") == trials_of(tmp_path / "one")


@pytest.mark.engine
@pytest.mark.slow
def test_a_worker_killed_in_mid_answer_costs_a_retry(spec: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = started(spec, out, "workers.executor=ray", "workers.cpus=1", "workers.count=1")
    while size(out) < size(whole) // 3:
        assert process.is_alive()
        time.sleep(0.01)
    worker = next(r["clock"]["worker"] for r in reversed(records_of(out)) if r["kind"] == "tell")
    os.kill(int(worker.rpartition(":")[2]), signal.SIGKILL)
    wait(process)
    assert journal_of(out) == journal_of(whole)
    attempts = [r["clock"]["attempts"] for r in records_of(out) if r["kind"] == "tell"]
    assert sorted(attempts)[-2:] == [1, 2]


@pytest.mark.slow
def test_a_terminal_that_is_closed_and_a_pager_that_ends_end_no_run(spec: Path, whole: Path, tmp_path: Path) -> None:
    """SIGHUP, as a terminal sends it, and a pipe that nobody reads any more."""
    out = tmp_path / "run"
    process = start("run", spec, "--out", out)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    while size(out) < size(whole) // 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=300) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert journal_of(out) == journal_of(whole)
