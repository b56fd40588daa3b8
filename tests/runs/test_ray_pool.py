"""A pool of Ray's ends what it has started, and nothing else."""

import itertools
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from crossbreed.errors import InputError, MachineError
from crossbreed.runs.record.phase import Phase
from crossbreed.runs.search.pool import Job
from crossbreed.runs.workers import ray_pool
from crossbreed.runs.workers.attempts import MAX_FAILED_STARTS
from crossbreed.runs.workers.ray_pool import RayPool
from crossbreed.types import Score, Status

pytestmark = pytest.mark.engine


def pool() -> RayPool:
    class Evaluator:  # sent to the workers as it stands here: they do not know the tests
        def evaluate(self, job: Job) -> Score:
            return Score(status=Status.OK)

        def close(self) -> None:
            pass

    return RayPool(Evaluator, count=1, cpus=1, gpus=0, address=None, retries=0)


def _ours(number: int, frame: object) -> None:
    """A handler of the program's."""


@pytest.mark.slow
def test_a_connection_of_its_own_is_closed_and_one_that_was_there_is_left_open() -> None:
    import ray

    before = signal.signal(signal.SIGTERM, _ours)
    try:
        pool().close()
        assert signal.getsignal(signal.SIGTERM) is _ours, "Ray's own ends the process with exit 1"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not ray.is_initialized()

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        started = pool()
        started.submit(Job(number=0, split="search", recipe=None))
        while (answered := started.wait()) is None:
            pass
        assert answered.score.status is Status.OK
        assert ray.available_resources().get("CPU", 0) == 0
        started.close()
        assert ray.is_initialized()
        assert ray.get(ray.remote(num_cpus=1)(lambda: 7).remote(), timeout=60) == 7, "a worker still holds the CPU"
    finally:
        ray.shutdown()


def test_a_worker_that_hangs_is_killed_replaced_and_counted(tmp_path: Path) -> None:
    """By a hung engine, once at an answer and once at a start."""
    notes = tmp_path / "notes"
    notes.mkdir()

    class Hanging:
        def __init__(self) -> None:
            if len(list(notes.iterdir())) == 1 and not (notes / "start").exists():
                (notes / "start").touch()
                time.sleep(600)

        def evaluate(self, job: Job) -> Score:
            if job.number == 1 and not (notes / "answer").exists():
                (notes / "answer").touch()
                time.sleep(600)
            return Score(status=Status.OK)

        def close(self) -> None:
            pass

    said: list[str] = []
    started = RayPool(Hanging, count=1, cpus=1, gpus=0, address=None, retries=1, timeout_s=8, say=said.append)
    try:
        answers = []
        for number in range(3):
            started.submit(Job(number=number, split="search", recipe=None))
            while (answered := started.wait()) is None:
                pass
            answers.append(answered)
    finally:
        started.close()
    assert [answered.score.status for answered in answers] == [Status.OK] * 3
    assert [answered.attempts for answered in answers] == [1, 2, 1]
    assert answers[0].lost_s == answers[2].lost_s == 0.0
    assert answers[1].lost_s >= 8
    assert ["did not answer trial 1 within 8 s" in said[0], "did not start within 8 s" in said[1]] == [True, True]


@pytest.mark.slow
def test_waiting_for_room_on_a_busy_cluster_is_no_start_that_hangs() -> None:
    import ray

    class Verified:
        def canary(self) -> None:
            pass

        def evaluate(self, job: Job) -> Score:
            return Score(status=Status.OK)

        def close(self) -> None:
            pass

    deadline_s, phases, said = 2.5, list[Phase](), list[str]()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        other = ray.remote(num_cpus=1)(lambda: time.sleep(2 * deadline_s)).remote()
        while ray.available_resources().get("CPU", 0):
            time.sleep(0.05)
        began_s = time.monotonic()
        pool = RayPool(
            Verified,
            count=1,
            cpus=1,
            gpus=0,
            address="auto",
            retries=0,
            timeout_s=deadline_s,
            say=said.append,
            on_phase=phases.append,
        )
        assert time.monotonic() - began_s > deadline_s, "the cluster was not busy"
        assert said == []
        assert phases == [Phase.PLACING, Phase.ENGINE, Phase.CANARY]
        ray.get(other)
        pool.close()
    finally:
        ray.shutdown()


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(MachineError, match=r"no Ray cluster answers at 127.0.0.1:9"):
        RayPool(lambda: None, count=1, cpus=1, gpus=0, address="127.0.0.1:9", retries=0)  # type: ignore[arg-type, return-value]
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("address", ["not an address", "somewhere", "host:", ":6379", "host:0", "host:port"])
def test_what_is_no_address_is_the_user_s_mistake(address: str) -> None:
    with pytest.raises(InputError, match=r"workers.address"):
        RayPool(lambda: None, count=1, cpus=1, gpus=0, address=address, retries=0)  # type: ignore[arg-type, return-value]


def _started_by(parent: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    parents = dict[int, int]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid for pid, of in parents.items() if of == parent]
    return [*found, *(other for pid in found for other in _started_by(pid))]


def _wait_for_ever(started: RayPool) -> None:
    while True:
        started.wait()


@pytest.mark.slow
def test_a_cluster_of_this_machine_that_has_died_is_not_waited_for() -> None:
    """Raylet and workers: nobody is left who could place others."""
    started = pool()
    try:
        for pid in _started_by(os.getpid()):
            with suppress(OSError):
                if re.search(b"raylet/raylet|^ray::", Path(f"/proc/{pid}/cmdline").read_bytes()):
                    os.kill(pid, signal.SIGKILL)
        started.submit(Job(number=0, split="search", recipe=None))
        began_s = time.monotonic()
        with pytest.raises(MachineError, match=r"Ray on this machine has died.* the same command"):
            _wait_for_ever(started)
        assert time.monotonic() - began_s < 120
    finally:
        started.close()


@pytest.mark.slow
def test_ten_workers_that_hang_in_a_row_are_replaced_within_the_deadline(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()

    class Hanging:
        def evaluate(self, job: Job) -> Score:
            if not (note := notes / str(job.number)).exists():
                note.touch()
                time.sleep(600)
            return Score(status=Status.OK)

        def close(self) -> None:
            pass

    deadline_s, said = 6.0, list[str]()
    pool = RayPool(Hanging, count=1, cpus=1, gpus=0, address=None, retries=1, timeout_s=deadline_s, say=said.append)
    try:
        for number in range(10):
            pool.submit(Job(number=number, split="search", recipe=None))
            while (answered := pool.wait()) is None:
                pass
            assert (answered.score.status, answered.attempts) == (Status.OK, 2)
            assert deadline_s <= answered.lost_s < 2 * deadline_s
    finally:
        pool.close()
    assert sum("was killed" in line for line in said) == 10


def test_a_job_goes_on_to_the_worker_that_merges_the_weights_asked_for(tmp_path: Path) -> None:
    """Two nodes that round differently: each knows the other's candidates too; weights of neither are said."""
    notes = tmp_path / "notes"
    notes.mkdir()

    class Rounding:
        def __init__(self) -> None:
            (notes / str(len(list(notes.iterdir())))).touch()
            self._kind = str(os.getpid())

        def evaluate(self, job: Job) -> Score:
            time.sleep(0.05)  # so that both have something to do
            return Score(status=Status.OK, fingerprint=self._kind)

        def close(self) -> None:
            pass

    started = RayPool(Rounding, count=2, cpus=1, gpus=0, address=None, retries=0)

    def answered(jobs: list[Job]) -> list[str | None]:
        found = dict[int, str | None]()
        while jobs or started.busy:
            while jobs and started.idle:
                started.submit(jobs.pop(0))
            if (result := started.wait()) is not None:
                found[result.job.number] = result.score.fingerprint
        return [found[number] for number in sorted(found)]

    try:
        kinds: set[str | None] = set()
        while len(kinds) < 2:
            kinds |= set(answered([Job(number=number, split="search", recipe=None) for number in range(4)]))
        asked = [*sorted(map(str, kinds)) * 4, "neither"]
        jobs = [Job(number=n, split="select", recipe=None, fingerprint=asked[n]) for n in range(9)]
        found = answered(jobs)
    finally:
        started.close()
    assert found[:8] == asked[:8]
    assert found[8] in kinds


@pytest.mark.slow
def test_a_lost_worker_is_said_and_comes_back_once_it_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two workers dies, and its replacement cannot be started as often as it is tried at once."""
    monkeypatch.setattr(ray_pool, "_FIRST_PAUSE_S", 0.5)
    notes, said = tmp_path / "notes", list[str]()
    notes.mkdir()
    num_failing = MAX_FAILED_STARTS + 1

    class Frail:
        def __init__(self) -> None:
            number = len(list(notes.iterdir()))
            (notes / str(number)).touch()
            if (notes / "died").exists() and number < 3 + num_failing:
                raise MemoryError("the graphics card is not free yet")

        def evaluate(self, job: Job) -> Score:
            time.sleep(0.2)  # so that both have something to do
            if job.number == 5 and not (notes / "died").exists():
                (notes / "died").touch()
                os._exit(1)
            return Score(status=Status.OK)

        def close(self) -> None:
            pass

    started = RayPool(Frail, count=2, cpus=0.5, gpus=0, address=None, retries=1, say=said.append)
    try:
        names, deadline, numbers = list[str | None](), time.monotonic() + 90, itertools.count()
        while len(list(notes.iterdir())) < 3 + num_failing or len(set(names[-6:])) < 2:
            assert time.monotonic() < deadline, said
            while started.idle:
                started.submit(Job(number=next(numbers), split="search", recipe=None))
            if (result := started.wait()) is not None:
                assert result.score.status is Status.OK
                names.append(result.worker)
    finally:
        started.close()
    assert [text.partition(":")[0] for text in said] == ["a worker could not be started, 1 go on"] * 2
    assert "the graphics card is not free yet. It is tried again in 0 s" in said[0]
    assert "It is tried again in 1 s" in said[1]
