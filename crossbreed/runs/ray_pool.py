"""A pool of Ray actors: requeues what a dead worker was doing, replaces the worker, gives up when none can live."""

import logging
import math
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crossbreed.errors import InputError, MachineError, SwapError, require
from crossbreed.kernels.memory import keep_freed_memory
from crossbreed.runs.pool import Answered, Evaluator, Job, failed
from crossbreed.types import Score

MAX_FAILED_STARTS = 3
"""The circuit breaker: consecutive workers that may fail to come up. A SwapError, which no restart mends, trips it."""


@dataclass(slots=True)
class _Attempt:
    job: Job
    number: int


class _Host:
    """The actor. Starting is a call of its own, so that its exception reaches the driver as it was raised."""

    def __init__(self, make: Callable[[], Evaluator]) -> None:
        self._make = make

    def start(self) -> str:
        keep_freed_memory()
        self._evaluator = self._make()
        return f"{os.uname().nodename}:{os.getpid()}"

    def evaluate(self, job: Job) -> Score:
        return self._evaluator.evaluate(job)


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
    ) -> None:
        """Connects to Ray (or starts it on this machine) and begins to start the workers.

        Args:
            make: Builds a worker; sent to the actors by pickle.
            count: Workers, or None for as many as the cluster's CPUs and GPUs hold.
            cpus: CPUs of one worker.
            gpus: GPUs of one worker.
            address: A cluster to join (`auto`, or a Ray address), or None for one on this machine.
            retries: Attempts after the first before a job FAILED.
        """
        require("ray", extra="ray")
        import ray

        self._ray, self._make, self._retries = ray, make, retries
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError) as error:
            raise MachineError(
                f"Ray could not be reached or started (address: {address or 'local'}): {error}"
            ) from None
        self._actor: Any = ray.remote(_Host).options(num_cpus=cpus, num_gpus=gpus)
        self._queue: deque[_Attempt] = deque()
        self._idle: list[Any] = []
        self._in_flight: dict[Any, tuple[Any, _Attempt | None]] = {}
        """Reference -> (actor, what it was asked; None while it starts)."""
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
            except InputError as error:  # Ray raises what the actor raised, as an instance of its type
                raise getattr(error, "cause", error) from None
            except Exception as error:  # the actor died, or its engine may have: neither is trusted again
                answered = self._replace(actor, attempt, error)
                if answered is not None:
                    return answered
                continue
            self._idle.append(actor)
            self._dispatch()
            if attempt is None:
                self._num_failed_starts = 0
                self._names[actor] = result
                return None
            return Answered(
                job=attempt.job, score=result, clock={"attempts": attempt.number, "worker": self._names[actor]}
            )

    def close(self) -> None:
        """See Pool."""
        self._ray.shutdown()

    def _start_worker(self) -> None:
        actor = self._actor.remote(self._make)
        self._in_flight[actor.start.remote()] = actor, None

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            actor, attempt = self._idle.pop(0), self._queue.popleft()
            self._in_flight[actor.evaluate.remote(attempt.job)] = actor, attempt

    def _replace(self, actor: Any, attempt: _Attempt | None, error: Exception) -> Answered | None:
        """Starts a new worker for one that failed; returns the job's FAILED answer when its attempts are spent."""
        self._ray.kill(actor)
        self._names.pop(actor, None)
        if attempt is None:
            self._num_failed_starts += 1
            if self._num_failed_starts >= MAX_FAILED_STARTS or isinstance(error, SwapError):
                if not self._names and not self._in_flight:
                    raise MachineError(f"no worker could be started, the last one said:\n{_cause(error)}") from None
                return None  # the workers that live go on without this one
        self._start_worker()
        if attempt is None:
            return None
        if attempt.number > self._retries:
            return failed(attempt.job, _cause(error), attempts=attempt.number)
        self._queue.appendleft(_Attempt(attempt.job, attempt.number + 1))
        self._dispatch()
        return None


def _num_workers(resources: dict[str, float], count: int | None, *, cpus: float, gpus: float) -> int:
    """Returns how many workers to start; Ray would wait for ever for one that never fits."""
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


def _cause(error: Exception) -> str:
    """What the worker said, without Ray's traceback."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1] if str(cause).strip() else ''}"
