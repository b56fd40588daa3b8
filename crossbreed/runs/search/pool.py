"""The interface between the search and its workers: a pool takes jobs and returns results, handling faults itself.

A pool tells faults from bugs. A fault says nothing about the candidate: an engine that could not answer (EngineError),
a worker that died, a machine out of memory, disk or network (`is_fault`). It is logged with its traceback, retried by a
new worker, and in the end the trial is FAILED. Any other exception is a bug of ours, of an engine's adapter or of a
task: it passes through `wait` and ends the run.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from crossbreed.runs.record.records import SplitName
from crossbreed.search_spaces import Genome
from crossbreed.types import Recipe, Score

NO_SLOPES = "no slopes: "
"""How the error of a score begins that lacks them: the candidate is scored, but without a gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A candidate to evaluate on one split."""

    number: int
    split: SplitName
    recipe: Recipe | None
    genome: Genome | None = None
    """The genome to evaluate if there is no recipe."""
    stage: int | None = None
    """The search that proposed it; None: it is of none, and needs no slopes."""
    fingerprint: str | None = None
    """The weights that it had in the search. A worker whose processor rounds otherwise may merge others."""

    def is_answered_by(self, score: Score) -> bool:
        """Returns whether a score is of the weights that are asked for, as far as both are known."""
        return None in (self.fingerprint, score.fingerprint) or self.fingerprint == score.fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """The score of a job; FAILED only after all attempts."""

    job: Job
    score: Score
    attempts: int = 1
    worker: str | None = None
    """The name of the worker, if there are several."""
    lost_s: float = 0.0
    """Seconds of the attempts that failed, and of replacing their workers."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version, where the worker's is another than the driver's."""


class Evaluator(Protocol):
    """A worker of a pool."""

    def evaluate(self, job: Job) -> Score:
        """Returns the job's score; raises if it could not be measured."""
        ...

    def close(self) -> None:
        """Frees the engine."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """A worker that knows in which packages it differs from its driver."""

    @property
    def other_versions(self) -> Mapping[str, str]:
        """Package -> version of the worker, where it is another than the driver's."""
        ...


@runtime_checkable
class Verified(Evaluator, Protocol):
    """A worker whose engine is verified before its first job."""

    def canary(self) -> None:
        """Raises SwapError if the engine does not answer with the weights that it is given."""
        ...


@runtime_checkable
class Noting(Evaluator, Protocol):
    """A worker that has something to say when it has started."""

    notes: tuple[str, ...]
    """For the log: what its canary could not verify."""


def notes_of(evaluator: Evaluator) -> tuple[str, ...]:
    """Returns what a worker has to say about its start."""
    return evaluator.notes if isinstance(evaluator, Noting) else ()


def verify(evaluator: Evaluator) -> None:
    """Verifies a worker that has just started, if it can be; one that fails is closed."""
    if isinstance(evaluator, Verified):
        with closed_on_error(evaluator):
            evaluator.canary()


class Closable(Protocol):
    """A part that holds an engine."""

    def close(self) -> None:
        """Frees it."""
        ...


@contextmanager
def closed_on_error(part: Closable) -> Iterator[None]:
    """Closes a part when the block raises; what closing it raises becomes a note on that."""
    try:
        yield
    except BaseException as error:
        try:
            part.close()
        except Exception as second:  # whatever a dead engine raises
            error.add_note(f"closing the engine raised {type(second).__name__}: {second}")
        raise


class Pool(Protocol):
    """Takes jobs while `idle`; returns results, in any order, while `busy`."""

    @property
    def idle(self) -> bool:
        """Whether a worker is ready and has no job."""
        ...

    @property
    def busy(self) -> bool:
        """Whether at least one submitted job has not been returned."""
        ...

    def submit(self, job: Job) -> None:
        """Passes a job to an idle worker."""
        ...

    def wait(self) -> JobResult | None:
        """Blocks until a result is available, or until another worker becomes idle (returns None).

        Raises:
            MachineError: no worker is left and none can be started.
            InputError: a worker rejected the user's input.
            Exception: a worker raised anything else, which is a bug.
        """
        ...

    def close(self) -> None:
        """Stops the workers. Jobs in flight are lost; their candidates are evaluated again on resume."""
        ...


class LazyPool:
    """Opens its pool at the first job: a finished run is reported without an engine."""

    def __init__(self, open_pool: Callable[[], Pool]) -> None:
        self._open = open_pool
        self._pool: Pool | None = None

    @property
    def idle(self) -> bool:
        """See Pool."""
        return self._pool is None or self._pool.idle

    @property
    def busy(self) -> bool:
        """See Pool."""
        return self._pool is not None and self._pool.busy

    def submit(self, job: Job) -> None:
        """See Pool."""
        self._pool = self._pool or self._open()
        self._pool.submit(job)

    def wait(self) -> JobResult | None:
        """See Pool."""
        assert self._pool is not None, "nothing was submitted"
        return self._pool.wait()

    def close(self) -> None:
        """See Pool."""
        if self._pool is not None:
            self._pool.close()
