"""Who does the work: a pool takes jobs and gives answers back, whatever happens to its workers in between."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from crossbreed.errors import InputError
from crossbreed.runs.history import SplitName
from crossbreed.search_spaces import Genome
from crossbreed.types import Recipe, Score, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A candidate to be answered for on one split."""

    number: int
    split: SplitName
    recipe: Recipe | None
    genome: Genome | None = None
    """What is evaluated where there is no recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A job and its score; FAILED only after all the attempts."""

    job: Job
    score: Score
    clock: Mapping[str, Any] = field(default_factory=dict)
    """What the journal keeps under `clock`: attempts, worker."""


class Evaluator(Protocol):
    """What a pool's worker does."""

    def evaluate(self, job: Job) -> Score:
        """Returns the job's score, or raises when it could not be measured."""
        ...

    def close(self) -> None:
        """Frees the engine."""
        ...


class Pool(Protocol):
    """Takes a job while `idle`; gives an answer, in any order, while `busy`."""

    @property
    def idle(self) -> bool:
        """A worker is ready and has nothing to do."""
        ...

    @property
    def busy(self) -> bool:
        """At least one job has been submitted and not been given back."""
        ...

    def submit(self, job: Job) -> None:
        """Hands a job to an idle worker."""
        ...

    def wait(self) -> Answered | None:
        """Blocks until an answer is there, or until another worker became idle (None).

        Raises:
            MachineError: no worker is left and none can be started.
            InputError: a worker found the user's input wrong.
        """
        ...

    def close(self) -> None:
        """Stops the workers. Jobs in flight are lost; their candidates are asked again on resume."""
        ...


class LocalPool:
    """One worker in this process, for runs without Ray. A worker that failed is not trusted again, but built anew."""

    def __init__(self, make: Callable[[], Evaluator], *, retries: int) -> None:
        self._make, self._retries = make, retries
        self._evaluator = make()
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

    def wait(self) -> Answered:
        """See Pool."""
        job = self._jobs.popleft()
        for attempt in range(1, self._retries + 2):
            try:
                return Answered(job=job, score=self._evaluator.evaluate(job), clock={"attempts": attempt})
            except InputError:
                raise
            except Exception as error:  # whatever it was, it says nothing about the candidate
                failure = f"{type(error).__name__}: {error}"
                self._evaluator.close()
                self._evaluator = self._make()
        return failed(job, failure, attempts=self._retries + 1)

    def close(self) -> None:
        """See Pool."""
        self._evaluator.close()


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

    def wait(self) -> Answered | None:
        """See Pool."""
        assert self._pool is not None, "nothing was submitted"
        return self._pool.wait()

    def close(self) -> None:
        """See Pool."""
        if self._pool is not None:
            self._pool.close()


def failed(job: Job, failure: str, *, attempts: int) -> Answered:
    """The answer to a job that no attempt could measure."""
    score = Score(status=Status.FAILED, error=failure.strip().splitlines()[-1][:500])
    return Answered(job=job, score=score, clock={"attempts": attempts})
