"""Pools pass the conformance tests, and the tests catch faulty pools."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from crossbreed.runs.search.pool import Evaluator, Job, JobResult, LazyPool
from crossbreed.runs.workers.attempts import log_failure
from crossbreed.runs.workers.local_pool import LocalPool
from crossbreed.runs.workers.ray_pool import RayPool
from crossbreed.testing.pools import MakePool, PoolConformance, Script, drive, jobs, score_of
from crossbreed.types import Score, Status


class TestLocalPool(PoolConformance):
    @pytest.fixture
    def make_pool(self) -> MakePool:
        return LocalPool


class TestLazyPool(PoolConformance):
    @pytest.fixture
    def make_pool(self) -> MakePool:
        return lambda make, *, retries: LazyPool(lambda: LocalPool(make, retries=retries))


@pytest.mark.engine
class TestRayPool(PoolConformance):
    """Uses one connection to Ray for all tests, since starting Ray takes seconds."""

    has_processes: ClassVar[bool] = True

    @pytest.fixture(scope="class", autouse=True)
    def connection(self) -> Iterator[None]:
        import ray

        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        yield
        ray.shutdown()

    @pytest.fixture
    def make_pool(self) -> MakePool:
        return lambda make, *, retries: RayPool(make, count=2, cpus=0.5, gpus=0, address=None, retries=retries)


def test_a_lazy_pool_opens_at_the_first_job(tmp_path: Path) -> None:
    opened: list[str] = []

    def open_pool() -> LocalPool:
        opened.append("pool")
        return LocalPool(Script(notes=tmp_path / "notes"), retries=0)

    pool = LazyPool(open_pool)
    assert pool.idle
    assert not pool.busy
    pool.close()
    assert not opened
    drive(pool, jobs(0, 1))
    assert opened == ["pool"]


class _NoRetries(LocalPool):
    """Never retries."""

    def __init__(self, make: Callable[[], Evaluator], *, retries: int) -> None:
        super().__init__(make, retries=0)


class _SameWorker(LocalPool):
    """Retries with the same worker."""

    def __init__(self, make: Callable[[], Evaluator], *, retries: int) -> None:
        worker = make()
        super().__init__(lambda: worker, retries=retries)


class _CatchesAll(LocalPool):
    """Turns every exception into FAILED."""

    def wait(self) -> JobResult:
        job = self._jobs[0]
        try:
            return super().wait()
        except Exception as error:
            return JobResult(job=job, score=Score(status=Status.FAILED, error=str(error)))


class _RetriesInvalid(LocalPool):
    """Retries INVALID."""

    def wait(self) -> JobResult:
        job = self._jobs[0]
        answered = super().wait()
        if answered.score.status is Status.INVALID:
            self._jobs.appendleft(job)
            return super().wait()
        return answered


class _MixesUp(LocalPool):
    """Returns scores of other jobs."""

    def wait(self) -> JobResult:
        answered = super().wait()
        other = Job(number=answered.job.number // 2, split=answered.job.split, recipe=None)
        return JobResult(job=answered.job, score=score_of(other))


class _AnswersTwice(LocalPool):
    """Answers a job twice."""

    _last: JobResult | None = None

    def wait(self) -> JobResult:
        if self._last is not None and self._last.job.number == 1:
            self._jobs.append(self._last.job)
        self._last = super().wait()
        return self._last


class _AlwaysIdle(LocalPool):
    """Is always idle."""

    idle: ClassVar[bool] = True


class _NeverBusy(LocalPool):
    """Is never busy."""

    busy: ClassVar[bool] = False


class _NeverCloses(LocalPool):
    """Does not close its worker."""

    def close(self) -> None:
        pass


class _StartsEarly(LocalPool):
    """Starts a replacement before closing the worker."""

    def __init__(self, make: Callable[[], Evaluator], *, retries: int) -> None:
        super().__init__(make, retries=retries)
        self._next = make()

        def swap() -> Evaluator:
            ready, self._next = self._next, make()
            return ready

        self._make = swap


class _StartsOnce(LocalPool):
    """Gives up at the first start that fails."""

    def _started(self) -> Evaluator:
        return self._make()


class _ClosesBravely(LocalPool):
    """Raises what closing a worker raises."""

    def _discard(self) -> None:
        self.close()


class _OtherError(LocalPool):
    """Raises another exception if no worker starts."""

    def __init__(self, make: Callable[[], Evaluator], *, retries: int) -> None:
        try:
            super().__init__(make, retries=retries)
        except Exception as error:
            raise RuntimeError(str(error)) from None


SUITE = PoolConformance()


@pytest.mark.parametrize(
    ("wrong", "law", "settings"),
    [
        (_NoRetries, SUITE.test_a_fault_is_retried_by_a_new_worker, {}),
        (_NoRetries, SUITE.test_failed_after_all_attempts, {"retries": 2}),
        (_SameWorker, SUITE.test_a_fault_is_retried_by_a_new_worker, {}),
        (_CatchesAll, SUITE.test_an_input_error_is_raised, {}),
        (_CatchesAll, SUITE.test_a_bug_is_raised, {}),
        (_RetriesInvalid, SUITE.test_invalid_is_not_retried, {}),
        (_MixesUp, SUITE.test_each_job_is_answered_once, {}),
        (_AnswersTwice, SUITE.test_each_job_is_answered_once, {}),
        (_AlwaysIdle, SUITE.test_idle_and_busy, {}),
        (_NeverBusy, SUITE.test_idle_and_busy, {}),
        (_NeverCloses, SUITE.test_close_frees_all_workers, {"step": "ok"}),
        (_NeverCloses, SUITE.test_close_frees_all_workers, {"step": "mistake"}),
        (_StartsEarly, SUITE.test_a_process_has_one_worker_at_a_time, {}),
        (_CatchesAll, SUITE.test_a_machine_error_is_raised_if_no_replacement_starts, {}),
        (_StartsOnce, SUITE.test_a_machine_error_is_raised_if_no_replacement_starts, {}),
    ],
)
def test_a_faulty_pool_is_caught(
    wrong: MakePool, law: Callable[..., None], settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        law(wrong, tmp_path / "notes", **settings)


def test_another_error_than_machine_error_is_caught(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="there is no engine"):
        SUITE.test_a_machine_error_is_raised_if_no_worker_starts(_OtherError, tmp_path / "notes")


@pytest.mark.parametrize(
    ("wrong", "law", "raised"),
    [
        (_StartsOnce, SUITE.test_a_first_start_that_fails_is_made_again, "does not start yet"),
        (_StartsOnce, SUITE.test_a_start_that_fails_is_made_again, "does not start again"),
        (_ClosesBravely, SUITE.test_a_worker_that_cannot_be_closed_is_replaced, "the engine is dead"),
    ],
)
def test_a_pool_that_ends_the_run_at_a_fault_is_caught(
    wrong: MakePool, law: Callable[..., None], raised: str, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=raised):
        law(wrong, tmp_path / "notes")


def test_attempts_beyond_the_last_are_counted_alone() -> None:
    said: list[str] = []
    for attempt in (3, 4):
        log_failure(said.append, None, "a traceback", attempt=attempt, retries=2)
    assert [text.splitlines()[0] for text in said] == [
        "a worker did not start: attempt 3 of 3 failed",
        "a worker did not start: attempt 4 failed",
    ]
