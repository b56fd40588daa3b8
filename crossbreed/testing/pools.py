"""Conformance tests for pools of workers: each job gets one answer, whatever happens to the workers.

Subclass `PoolConformance` in a test module and override its one fixture:

    class TestMine(PoolConformance):
        @pytest.fixture
        def make_pool(self) -> MakePool:
            return lambda make, *, retries: MyPool(make, retries=retries)
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import pytest

from crossbreed.errors import EngineError, InputError, MachineError
from crossbreed.runs.search.pool import Evaluator, Job, JobResult, Pool
from crossbreed.types import ItemScores, Score, Status

Step: TypeAlias = Literal["ok", "invalid", "fault", "mistake", "bug", "die", "slow"]
"""What an attempt does: return OK or INVALID, raise EngineError (fault), InputError (mistake) or KeyError (bug), end
the process, or return OK after half a second."""


class MakePool(Protocol):
    """Builds the pool under test."""

    def __call__(self, make: Callable[[], Evaluator], *, retries: int) -> Pool:
        """Returns a pool that builds workers by `make` and retries a job `retries` times."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Builds workers that follow these steps and log what they do. Can be pickled."""

    notes: Path
    """The log file of all workers."""
    steps: Mapping[int, Sequence[Step]] = field(default_factory=dict)
    """Job number -> steps of its attempts. All further attempts, and other jobs, return OK."""
    has_engine: bool = True
    """False: starting a worker raises EngineError."""
    num_failing_starts: int = 0
    """How many starts raise EngineError once a job has raised a fault."""
    num_failing_first_starts: int = 0
    """How many starts raise EngineError before any worker has started."""
    is_closable: bool = True
    """False: closing a worker that raised a fault raises RuntimeError."""

    def __call__(self) -> Evaluator:
        """Starts a worker."""
        if not self.has_engine:
            raise EngineError("there is no engine")
        if not self.events("started") and len(self.events("not started")) < self.num_failing_first_starts:
            self.note("not started", "")
            raise EngineError("the engine does not start yet")
        if self.events("fault") and len(self.events("not started")) < self.num_failing_starts:
            self.note("not started", "")
            raise EngineError("the engine does not start again")
        return Scripted(self)

    def note(self, event: str, worker: str, job: int | None = None) -> None:
        """Appends a line to the log, in one write."""
        line = json.dumps({"event": event, "worker": worker, "pid": os.getpid(), "job": job}) + "\n"
        with self.notes.open("ab", buffering=0) as file:
            file.write(line.encode())

    def events(self, event: str, job: int | None = None) -> list[dict[str, Any]]:
        """Returns the log entries of one event, in order."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [note for note in map(json.loads, lines) if note["event"] == event and job in (None, note["job"])]


class Scripted:
    """A worker that follows a script."""

    def __init__(self, script: Script) -> None:
        self._script, self._name, self._is_dead = script, os.urandom(6).hex(), False
        script.note("started", self._name)

    def evaluate(self, job: Job) -> Score:
        """Performs the next step of a job."""
        attempt = len(self._script.events("evaluated", job.number))
        self._script.note("evaluated", self._name, job.number)
        steps = self._script.steps.get(job.number, ())
        match steps[attempt] if attempt < len(steps) else "ok":
            case "fault":
                self._is_dead = True
                self._script.note("fault", self._name, job.number)
                raise EngineError(f"attempt {attempt} at job {job.number}\nfailed")
            case "mistake":
                raise InputError("the input is wrong", expected="another", got=f"job {job.number}")
            case "bug":
                raise KeyError(f"a bug at job {job.number}")
            case "die":
                os._exit(1)
            case "invalid":
                return Score(status=Status.INVALID, error="NaN")
            case "slow":
                time.sleep(0.5)
        return score_of(job)

    def close(self) -> None:
        """Logs the call."""
        self._script.note("closed", self._name)
        if self._is_dead and not self._script.is_closable:
            raise RuntimeError("the engine is dead")


def score_of(job: Job) -> Score:
    """Returns the score of the step `ok`."""
    tasks = {"task": ItemScores(item_ids=(job.split,), values=(float(job.number),))}
    return Score(status=Status.OK, tasks=tasks, texts={"task": (f"{job.number}",)}, fingerprint=f"{job.number}")


def jobs(*numbers: int) -> list[Job]:
    """Returns jobs of the search split."""
    return [Job(number=number, split="search", recipe=None) for number in numbers]


def drive(pool: Pool, given: Sequence[Job]) -> dict[int, JobResult]:
    """Submits jobs as a search does and returns their results by number. Fails if a job is answered twice."""
    waiting, results = list(given), dict[int, JobResult]()
    while waiting or pool.busy:
        while waiting and pool.idle:
            pool.submit(waiting.pop(0))
            assert pool.busy
        result = pool.wait()
        if result is not None:
            assert result.job.number not in results, "a job is answered twice"
            results[result.job.number] = result
    return results


class PoolConformance:
    """The requirements. Override `make_pool`."""

    has_processes: ClassVar[bool] = False
    """Whether each worker has its own process, which may die without the driver."""

    @pytest.fixture
    def make_pool(self) -> MakePool:
        """Override: returns the function that builds a pool, with two workers where it can have several."""
        raise NotImplementedError

    @pytest.fixture
    def notes(self, tmp_path: Path) -> Path:
        """The log file of the workers."""
        return tmp_path / "notes.jsonl"

    def test_each_job_is_answered_once(self, make_pool: MakePool, notes: Path) -> None:
        """With its own score, in any order: the first job takes longest."""
        asked = [*jobs(0, 1, 2, 3, 4), Job(number=7, split="report", recipe=None)]
        with opened(make_pool, Script(notes=notes, steps={0: ["slow"]})) as pool:
            answers = drive(pool, asked)
        assert answers.keys() == {job.number for job in asked}
        for job in asked:
            assert answers[job.number].job == job
            assert answers[job.number].score == score_of(job)
            assert answers[job.number].attempts == 1

    def test_idle_and_busy(self, make_pool: MakePool, notes: Path) -> None:
        """Idle while a worker is free; busy from the first submitted job to the last answer."""
        with opened(make_pool, Script(notes=notes)) as pool:
            assert not pool.busy
            _wait_until_idle(pool)
            num_out = 0
            for job in jobs(*range(32)):
                if not pool.idle:
                    break
                pool.submit(job)
                num_out += 1
                assert pool.busy
            assert not pool.idle, "idle with 32 jobs submitted"
            while num_out:
                assert pool.busy
                num_out -= pool.wait() is not None
            assert not pool.busy
            _wait_until_idle(pool)
            assert drive(pool, jobs(99)).keys() == {99}

    def test_a_fault_is_retried_by_a_new_worker(self, make_pool: MakePool, notes: Path) -> None:
        """A worker that raised a fault gets no further jobs."""
        script = Script(notes=notes, steps={1: ["fault", "fault"]})
        with opened(make_pool, script, retries=2) as pool:
            answers = drive(pool, jobs(0, 1, 2, 3))
        assert all(answers[number].score == score_of(answers[number].job) for number in range(4))
        assert {number: answer.attempts for number, answer in answers.items()} == {0: 1, 1: 3, 2: 1, 3: 1}
        tried = [note["worker"] for note in script.events("evaluated", 1)]
        assert len(set(tried)) == 3
        order = script.events("evaluated")
        for worker in tried[:2]:
            last = max(index for index, note in enumerate(order) if note["worker"] == worker)
            assert order[last]["job"] == 1, "a worker that raised a fault got another job"

    @pytest.mark.parametrize("retries", [0, 2])
    def test_failed_after_all_attempts(self, make_pool: MakePool, notes: Path, retries: int) -> None:
        """FAILED has one line of error and no values. Other jobs are unaffected."""
        script = Script(notes=notes, steps={1: ["fault"] * 9})
        with opened(make_pool, script, retries=retries) as pool:
            answers = drive(pool, jobs(0, 1, 2))
        assert len(script.events("evaluated", 1)) == retries + 1
        lost = answers[1]
        assert (lost.score.status, lost.attempts) == (Status.FAILED, retries + 1)
        assert not lost.score.tasks
        assert lost.score.error is not None
        assert "failed" in lost.score.error
        assert "\n" not in lost.score.error
        assert [answers[number].score.status for number in (0, 2)] == [Status.OK, Status.OK]

    def test_invalid_is_not_retried(self, make_pool: MakePool, notes: Path) -> None:
        """INVALID is a result, not a fault."""
        script = Script(notes=notes, steps={0: ["invalid"]})
        with opened(make_pool, script, retries=2) as pool:
            answers = drive(pool, jobs(0, 1))
        assert (answers[0].score.status, answers[0].attempts) == (Status.INVALID, 1)
        assert len(script.events("evaluated", 0)) == 1

    def test_an_input_error_is_raised(self, make_pool: MakePool, notes: Path) -> None:
        """Unchanged and after one attempt: it is neither FAILED nor retried."""
        script = Script(notes=notes, steps={1: ["mistake"] * 9})
        with opened(make_pool, script, retries=2) as pool, pytest.raises(InputError) as caught:
            drive(pool, jobs(0, 1, 2))
        assert (caught.value.problem, caught.value.expected, caught.value.got) == (
            "the input is wrong",
            "another",
            "job 1",
        )
        assert len(script.events("evaluated", 1)) == 1

    def test_a_bug_is_raised(self, make_pool: MakePool, notes: Path) -> None:
        """With its own type and after one attempt: a bug must not become a FAILED trial."""
        script = Script(notes=notes, steps={1: ["bug"] * 9})
        with opened(make_pool, script, retries=2) as pool, pytest.raises(KeyError, match="a bug at job 1"):
            drive(pool, jobs(0, 1, 2))
        assert len(script.events("evaluated", 1)) == 1

    def test_a_machine_error_is_raised_if_no_worker_starts(self, make_pool: MakePool, notes: Path) -> None:
        """At the latest by the first `wait`."""

        def start_and_drive() -> None:
            with opened(make_pool, Script(notes=notes, has_engine=False)) as pool:
                drive(pool, jobs(0))

        with pytest.raises(MachineError, match="there is no engine"):
            start_and_drive()

    def test_a_first_start_that_fails_is_made_again(self, make_pool: MakePool, notes: Path) -> None:
        """The first worker has as many starts as its replacement."""
        script = Script(notes=notes, num_failing_first_starts=1)
        with opened(make_pool, script) as pool:
            assert drive(pool, jobs(0))[0].attempts == 1
        assert script.events("not started")

    def test_a_start_that_fails_is_made_again(self, make_pool: MakePool, notes: Path) -> None:
        """Two failures in a row do not end the run, and are no attempts at the job."""
        script = Script(notes=notes, steps={1: ["fault"]}, num_failing_starts=2)
        with opened(make_pool, script, retries=1) as pool:
            answers = drive(pool, jobs(0, 1, 2))
        assert {number: answer.attempts for number, answer in answers.items()} == {0: 1, 1: 2, 2: 1}
        assert all(answer.score == score_of(answer.job) for answer in answers.values())

    def test_a_machine_error_is_raised_if_no_replacement_starts(self, make_pool: MakePool, notes: Path) -> None:
        """After a few starts. No job is FAILED because there is no worker."""
        script = Script(notes=notes, steps={n: ["fault"] * 9 for n in range(2)}, num_failing_starts=99)
        with opened(make_pool, script, retries=8) as pool, pytest.raises(MachineError, match="does not start again"):
            drive(pool, jobs(0, 1))
        assert 2 <= len(script.events("not started")) < 9

    def test_a_worker_that_cannot_be_closed_is_replaced(self, make_pool: MakePool, notes: Path) -> None:
        """Its engine may be dead, and what closing it raises says nothing about the job."""
        script = Script(notes=notes, steps={1: ["fault"]}, is_closable=False)
        with opened(make_pool, script, retries=1) as pool:
            answers = drive(pool, jobs(0, 1, 2))
        assert {number: answer.attempts for number, answer in answers.items()} == {0: 1, 1: 2, 2: 1}

    def test_a_worker_that_dies_is_replaced(self, make_pool: MakePool, notes: Path) -> None:
        """A dead process counts as a fault."""
        if not self.has_processes:
            pytest.skip("the workers run in the driver's process")
        script = Script(notes=notes, steps={1: ["die"], 2: ["die"] * 9})
        with opened(make_pool, script, retries=1) as pool:
            answers = drive(pool, jobs(0, 1, 2, 3))
        statuses = {number: answer.score.status.value for number, answer in answers.items()}
        assert statuses == {0: "OK", 1: "OK", 2: "FAILED", 3: "OK"}
        assert answers[1].attempts == answers[2].attempts == 2

    @pytest.mark.parametrize("step", ["ok", "fault", "mistake"])
    def test_close_frees_all_workers(self, make_pool: MakePool, notes: Path, step: Step) -> None:
        """All workers are closed or their processes ended, also with a job in flight and after an error."""
        script = Script(notes=notes, steps={1: [step]})
        with opened(make_pool, script, retries=1) as pool:
            try:
                drive(pool, jobs(0, 1))
                _wait_until_idle(pool)
                pool.submit(jobs(2)[0])
            except InputError:
                assert step == "mistake"
        closed = {note["worker"] for note in script.events("closed")}
        left = [note for note in script.events("started") if note["worker"] not in closed]
        assert script.events("started")
        assert all(_ends(note["pid"]) for note in left), f"{len(left)} workers still run"

    def test_a_process_has_one_worker_at_a_time(self, make_pool: MakePool, notes: Path) -> None:
        """A worker is closed before its replacement starts: two engines may not fit in memory."""
        script = Script(notes=notes, steps={1: ["fault"] * 2})
        with opened(make_pool, script, retries=2) as pool:
            drive(pool, jobs(0, 1, 2))
        num_open: dict[int, int] = {}
        for line in notes.read_text().splitlines():
            note = json.loads(line)
            change = {"started": 1, "closed": -1}.get(note["event"], 0)
            num_open[note["pid"]] = num_open.get(note["pid"], 0) + change
            assert num_open[note["pid"]] <= 1


@contextmanager
def opened(make_pool: MakePool, script: Script, *, retries: int = 0) -> Iterator[Pool]:
    """Builds a pool and closes it at the end."""
    pool = make_pool(script, retries=retries)
    try:
        yield pool
    finally:
        pool.close()


def _wait_until_idle(pool: Pool) -> None:
    """Waits until a worker has started."""
    while not pool.idle:
        assert pool.wait() is None, "an answer without a job"


def _ends(pid: int) -> bool:
    """Returns whether a process ends within ten seconds; False at once for this process."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if pid == os.getpid():
            return False
        time.sleep(0.1)
    return False
