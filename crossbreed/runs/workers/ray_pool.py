"""A pool of Ray actors: requeues the job of a dead worker, replaces the worker, and gives up if none can be started.

Ray wraps an actor's exceptions. The cause decides: a fault is retried, input errors and bugs are raised unchanged, with
the worker's traceback as a note.
"""

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from crossbreed.errors import InputError, MachineError, SwapError, require
from crossbreed.runs.search.pool import Answered, Evaluator, Job, is_fault, notes_of
from crossbreed.runs.workers.attempts import (
    MAX_FAILED_STARTS,
    Log,
    described,
    failed,
    log_failure,
    log_notes,
    no_worker,
)
from crossbreed.runs.workers.memory import keep_freed_memory
from crossbreed.types import Score


@dataclass(slots=True)
class _Attempt:
    job: Job
    number: int


class _Host:
    """The actor. Starting is a separate call, so that its exception reaches the driver unchanged."""

    def __init__(self, make: Callable[[], Evaluator]) -> None:
        self._make = make

    def start(self) -> tuple[str, tuple[str, ...]]:
        """Returns the worker's name, and its notes."""
        keep_freed_memory()
        with _sendable():
            self._evaluator = self._make()
        return f"{os.uname().nodename}:{os.getpid()}", notes_of(self._evaluator)

    def evaluate(self, job: Job) -> Score:
        with _sendable():
            return self._evaluator.evaluate(job)


class WorkerBug(Exception):
    """Stands for a bug in a worker whose own exception cannot be sent to the driver."""


@contextmanager
def _sendable() -> Iterator[None]:
    """Puts an exception of the same branch in the place of one that pickle cannot bring to the driver."""
    try:
        yield
    except Exception as error:
        if _is_sendable(error):
            raise
        raise _stand_in_of(error)(f"{type(error).__name__}: {error}") from error


def _stand_in_of(error: Exception) -> type[Exception]:
    for kind in (InputError, SwapError):
        if isinstance(error, kind):
            return kind
    return MachineError if is_fault(error) else WorkerBug


def _is_sendable(error: Exception) -> bool:
    from ray import cloudpickle

    try:
        return isinstance(cloudpickle.loads(cloudpickle.dumps(error)), Exception)
    except Exception:  # whatever the exception's class or what it holds raises
        return False


class RayPool:
    """`count` actors, each with the engine that `make` builds."""

    def __init__(
        self,
        make: Callable[[], Evaluator],
        *,
        count: int | None,
        cpus: float,
        gpus: float,
        address: str | None,
        retries: int,
        log: Log = lambda text: None,
    ) -> None:
        """Connects to Ray (or starts it on this machine), starts the workers and waits for the first.

        If the process is already connected, that connection is used and left open.

        Args:
            make: Builds a worker; sent to the actors by pickle.
            count: Number of workers; None for as many as fit the cluster's CPUs and GPUs.
            cpus: CPUs per worker.
            gpus: GPUs per worker.
            address: The cluster to join (`auto`, or a Ray address); None for one on this machine.
            retries: Further attempts before a job is FAILED.
            log: Receives the traceback of each failed attempt.
        """
        require("ray", extra="ray")
        import ray

        self._ray, self._make, self._retries, self._log = ray, make, retries, log
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _connect(ray, address)
        self._actor: Any = ray.remote(_Host).options(num_cpus=cpus, num_gpus=gpus)
        self._queue: deque[_Attempt] = deque()
        self._idle: list[Any] = []
        self._in_flight: dict[Any, tuple[Any, _Attempt | None]] = {}
        """Reference -> (actor, its attempt; None while it starts)."""
        self._actors: set[Any] = set()
        self._names: dict[Any, str] = {}
        self._num_failed_starts = 0
        try:
            for _ in range(_num_workers(ray.cluster_resources(), count, cpus=cpus, gpus=gpus)):
                self._start_worker()
            while not self._idle:
                self.wait()
        except BaseException:
            self.close()
            raise

    @property
    def idle(self) -> bool:
        """See Pool."""
        return bool(self._idle) and not self._queue

    @property
    def busy(self) -> bool:
        """See Pool."""
        return bool(self._queue) or any(attempt for _, attempt in self._in_flight.values())

    def submit(self, job: Job) -> None:
        """See Pool."""
        self._queue.append(_Attempt(job, 1))
        self._dispatch()

    def wait(self) -> Answered | None:
        """See Pool."""
        while True:
            (reference, *_), _ = self._ray.wait(list(self._in_flight), num_returns=1)
            actor, attempt = self._in_flight.pop(reference)
            try:
                result = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:  # the actor died or raised
                answered = self._replace(actor, attempt, _fault(error), str(error))
                if answered is not None:
                    return answered
                continue
            self._idle.append(actor)
            self._dispatch()
            if attempt is None:
                self._num_failed_starts = 0
                self._names[actor], notes = result
                log_notes(self._log, notes)
                return None
            return Answered(job=attempt.job, score=result, attempts=attempt.number, worker=self._names[actor])

    def close(self) -> None:
        """See Pool."""
        if self._is_ours:
            self._ray.shutdown()
            return
        for actor in self._actors:
            self._ray.kill(actor)

    def _start_worker(self) -> None:
        actor = self._actor.remote(self._make)
        self._actors.add(actor)
        self._in_flight[actor.start.remote()] = actor, None

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            actor, attempt = self._idle.pop(0), self._queue.popleft()
            self._in_flight[actor.evaluate.remote(attempt.job)] = actor, attempt

    def _replace(self, actor: Any, attempt: _Attempt | None, fault: Exception, traceback: str) -> Answered | None:
        """Replaces a failed worker; returns the job's FAILED result if this was its last attempt."""
        self._ray.kill(actor)
        self._actors.discard(actor)
        self._names.pop(actor, None)
        if attempt is None:
            self._num_failed_starts += 1
            log_failure(self._log, None, traceback, attempt=self._num_failed_starts, retries=MAX_FAILED_STARTS - 1)
            if self._num_failed_starts >= MAX_FAILED_STARTS or isinstance(fault, SwapError):
                if not self._names and not self._in_flight:
                    raise no_worker(fault) from None
                return None  # the workers that live go on without this one
        else:
            log_failure(self._log, attempt.job, traceback, attempt=attempt.number, retries=self._retries)
        self._start_worker()
        if attempt is None:
            return None
        if attempt.number > self._retries:
            return failed(attempt.job, described(fault), attempts=attempt.number)
        self._queue.appendleft(_Attempt(attempt.job, attempt.number + 1))
        self._dispatch()
        return None


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError) as error:
        raise MachineError(f"Ray could not be reached or started (address: {address or 'local'}): {error}") from None


def _fault(error: Exception) -> Exception:
    """Returns the fault behind an error of Ray's; raises what is none: the user's mistake, or a bug."""
    from ray.exceptions import UnserializableException

    cause = getattr(error, "cause", error if isinstance(error, UnserializableException) else None)
    if cause is None or is_fault(cause):
        return cause or error  # without a cause: the actor, its process or its node died
    if not isinstance(cause, InputError):
        cause.add_note(f"raised in a worker:\n{error}")
    raise cause from None


def _num_workers(resources: dict[str, float], count: int | None, *, cpus: float, gpus: float) -> int:
    """Returns the number of workers to start; raises InputError if they never fit, for which Ray would wait forever."""
    have_cpus, have_gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    fitting = int(min(have_cpus / cpus, have_gpus / gpus if gpus else math.inf))
    if fitting < (count or 1):
        raise InputError(
            f"{count or 1} workers of {cpus:g} CPUs and {gpus:g} GPUs do not fit the cluster",
            expected=f"at least {(count or 1) * cpus:g} CPUs and {(count or 1) * gpus:g} GPUs",
            got=f"{have_cpus:g} CPUs and {have_gpus:g} GPUs",
            where="workers.count, workers.cpus, workers.gpus",
            fix="lower them, or join a larger cluster with workers.address",
        )
    return count or fitting
