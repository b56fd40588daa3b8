"""Failed attempts: their tracebacks in the log, and the FAILED result after the last one."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from crossbreed.errors import MachineError
from crossbreed.runs.search.pool import Job, JobResult
from crossbreed.types import Score, Status

Log: TypeAlias = Callable[[str], None]
"""Takes a text for the run's log.txt."""
MAX_FAILED_STARTS = 3
"""The circuit breaker: consecutive workers that may fail to come up. A SwapError, which no restart mends, trips it."""


def log_failure(log: Log, job: Job | None, traceback: str, *, attempt: int, retries: int) -> None:
    """Logs a failed attempt.

    Args:
        log: The log.
        job: The job; None if a worker did not start.
        traceback: The traceback of the exception.
        attempt: The number of the attempt, counted from 1.
        retries: The number of attempts after the first; further ones are made while other workers go on.
    """
    of = f" of {retries + 1}" if attempt <= retries + 1 else ""
    what = "a worker did not start" if job is None else f"trial {job.number}, {job.split} split"
    log(f"{what}: attempt {attempt}{of} failed\n{traceback.rstrip()}")


def log_notes(log: Log, notes: Sequence[str]) -> None:
    """Logs what the canary of a new worker could not verify."""
    for note in notes:
        log(f"canary: {note}")


def failed(job: Job, failure: str, *, attempts: int, lost_s: float) -> JobResult:
    """Returns the FAILED result of a job that no attempt could measure."""
    lines = failure.strip().splitlines() or [failure]
    return JobResult(
        job=job, score=Score(status=Status.FAILED, error=lines[-1][:500]), attempts=attempts, lost_s=lost_s
    )


def no_worker(fault: BaseException) -> MachineError:
    """Returns the error that ends a run whose workers do not start."""
    return MachineError(f"no worker could be started, the last one said:\n{described(fault)}")


def described(fault: BaseException) -> str:
    """Returns a fault in one line."""
    lines = str(fault).strip().splitlines()
    return f"{type(fault).__name__}: {lines[-1] if lines else ''}"
