"""One worker in the driver's process, for runs without Ray. After a fault it is replaced by a new one.

Work that hangs in the driver's own process cannot be ended without it: at its deadline the log says so.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import TIMEOUT_MAX, Timer
from traceback import format_exc

from crossbreed.errors import FAULTS, SwapError, is_fault, is_fault_again
from crossbreed.runs.record.phase import Phase
from crossbreed.runs.record.worker_counts import WorkerCounts
from crossbreed.runs.search.pool import Evaluator, Job, JobResult, Verified, notes_of, verify
from crossbreed.runs.workers.attempts import MAX_FAILED_STARTS, Log, failed, log_failure, log_notes, no_worker
from crossbreed.runs.workers.deadlines import Deadlines


class LocalPool:
    """A worker and its queue of jobs."""

    def __init__(
        self,
        make: Callable[[], Evaluator],
        *,
        retries: int,
        timeout_s: float | None = None,
        log: Log = lambda text: None,
        on_count: Callable[[WorkerCounts], None] = lambda counts: None,
        on_phase: Callable[[Phase], None] = lambda phase: None,
    ) -> None:
        """Builds the worker.

        Args:
            make: Builds a worker.
            retries: Further attempts before a job is FAILED.
            timeout_s: Seconds after which an answer counts as hung; None: learnt, see `Deadlines`.
            log: Receives the traceback of each failed attempt.
            on_count: Receives how many workers there are, when that changes.
            on_phase: Receives what the first start has come to.
        """
        self._on_count, self._on_phase, self._num_lost = on_count, on_phase, 0
        self._deadlines = Deadlines(timeout_s)
        self._make, self._retries, self._log = make, retries, log
        self._has_started = False
        self._evaluator: Evaluator | None = self._started()
        self._jobs: deque[Job] = deque()

    @property
    def idle(self) -> bool:
        """See Pool."""
        return not self._jobs

    @property
    def busy(self) -> bool:
        """See Pool."""
        return bool(self._jobs)

    def submit(self, job: Job) -> None:
        """See Pool."""
        self._jobs.append(job)

    def wait(self) -> JobResult:
        """See Pool."""
        job, start = self._jobs.popleft(), time.monotonic()
        for attempt in range(1, self._retries + 2):
            self._evaluator = self._evaluator or self._started()
            lost_s = time.monotonic() - start if attempt > 1 else 0.0
            try:
                with self._watched(job):
                    score = self._evaluator.evaluate(job)
                return JobResult(job=job, score=score, attempts=attempt, lost_s=lost_s)
            except FAULTS as error:
                if not is_fault(error):
                    raise
                failure = f"{type(error).__name__}: {error}"
                log_failure(self._log, job, format_exc(), attempt=attempt, retries=self._retries)
                self._discard()
        return failed(job, failure, attempts=self._retries + 1, lost_s=time.monotonic() - start)

    def close(self) -> None:
        """See Pool."""
        evaluator, self._evaluator = self._evaluator, None
        if evaluator is not None:
            evaluator.close()

    @contextmanager
    def _watched(self, job: Job) -> Iterator[None]:
        deadline_s, began_s = self._deadlines.of(job.split), time.monotonic()
        text = (
            f"trial {job.number} has not been answered within {deadline_s:.0f} s and may hang. A local worker cannot "
            "be replaced: stop the run and give the same command again, or use `workers.executor: ray`"
        )
        timer = Timer(min(deadline_s, TIMEOUT_MAX), self._log, [text])
        timer.daemon = True
        timer.start()
        try:
            yield
            self._deadlines.took(job.split, time.monotonic() - began_s)
        finally:
            timer.cancel()

    def _discard(self) -> None:
        """Closes a worker that raised a fault; what that raises is logged only, since its engine may be dead."""
        self._num_lost += 1
        self._on_count(WorkerCounts(wanted=1, alive=0, starting=1, lost=self._num_lost))
        try:
            self.close()
        except Exception:  # whatever a dead engine raises
            self._log(f"the worker could not be closed\n{format_exc().rstrip()}")

    def _started(self) -> Evaluator:
        """Returns a new worker. A start that fails is no attempt at the job; several in a row end the run."""
        for attempt in range(1, MAX_FAILED_STARTS + 1):
            try:
                evaluator = self._make()
                if isinstance(evaluator, Verified) and not self._has_started:
                    self._on_phase(Phase.CANARY)
                verify(evaluator)
                log_notes(self._log, notes_of(evaluator))
                self._has_started = True
                self._on_count(WorkerCounts(wanted=1, alive=1, starting=0, lost=self._num_lost))
                return evaluator
            except Exception as error:
                is_retried = is_fault_again(error) if self._has_started else is_fault(error)
                if isinstance(error, SwapError) or not is_retried:
                    raise
                fault: Exception = error
                log_failure(self._log, None, format_exc(), attempt=attempt, retries=MAX_FAILED_STARTS - 1)
        raise no_worker(fault) from fault
