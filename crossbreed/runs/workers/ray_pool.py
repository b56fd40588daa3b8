"""A pool of Ray actors: requeues the job of a dead or hung worker, and replaces the worker.

Nodes of one cluster may round differently: a job that asks for given weights goes on to the workers that merge them.
A worker that does not answer within its deadline is killed. A start that fails is repeated: at once while it may be
chance, later with growing pauses while other workers go on, and if there is none left the run ends.

Ray wraps an actor's exceptions. The cause decides: a fault is retried, input errors and bugs are raised unchanged, with
the worker's traceback as a note.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from crossbreed.errors import InputError, MachineError, SwapError, is_fault, is_fault_again, require
from crossbreed.runs.record.phase import Phase
from crossbreed.runs.record.worker_counts import WorkerCounts
from crossbreed.runs.search.pool import Evaluator, Job, JobResult, Verified, Versioned, notes_of, verify
from crossbreed.runs.workers.attempts import (
    MAX_FAILED_STARTS,
    Log,
    described,
    failed,
    log_failure,
    log_notes,
    no_worker,
)
from crossbreed.runs.workers.cluster import connect
from crossbreed.runs.workers.deadlines import Deadlines
from crossbreed.runs.workers.memory import keep_freed_memory
from crossbreed.types import Score

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 600.0
"""Between two starts, from the first that is not repeated at once; each pause is twice the one before."""
_LOOK_S = 10.0
"""Between two looks at the cluster's nodes, while no worker is left and the next ones have no place yet."""


@dataclass(slots=True)
class _Attempt:
    job: Job
    number: int
    lost_s: float = 0.0
    """Seconds of the attempts before, and of replacing their workers."""
    others: set[Any] = field(default_factory=set)
    """Actors that merge other weights than those that the job asks for."""


@dataclass(slots=True)
class _Flight:
    """A step of a start, or an attempt, that a worker is busy with."""

    actor: Any
    attempt: _Attempt | None
    """None while the worker starts."""
    began_s: float
    step: Literal["placed", "start", "canary"] | None = None
    """The step of a start."""

    @property
    def phase(self) -> str:
        """What the deadline goes by."""
        return self.step or (self.attempt.job.split if self.attempt else "start")


class _Actor:
    """The actor. Each step of a start is a call of its own, so that an exception reaches the driver unchanged."""

    def __init__(self, make: Callable[[], Evaluator]) -> None:
        self._make = make

    def placed(self) -> None:
        """Returns once the cluster had room for the actor."""

    def start(self) -> bool:
        """Builds the worker; returns whether it is to be verified."""
        keep_freed_memory()
        with _sendable():
            self._evaluator = self._make()
        return isinstance(self._evaluator, Verified)

    def canary(self) -> tuple[str, dict[str, str], tuple[str, ...]]:
        """Verifies it; returns the worker's name, the versions that differ from the driver's, and its notes."""
        with _sendable():
            verify(self._evaluator)
        others = self._evaluator.other_versions if isinstance(self._evaluator, Versioned) else {}
        return f"{os.uname().nodename}:{os.getpid()}", dict(others), notes_of(self._evaluator)

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
        timeout_s: float | None = None,
        log: Log = lambda text: None,
        say: Log = lambda text: None,
        on_count: Callable[[WorkerCounts], None] = lambda counts: None,
        on_phase: Callable[[Phase], None] = lambda phase: None,
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
            timeout_s: Seconds after which a start or an answer is given up; None: learnt, see `Deadlines`.
            log: Receives the traceback of each failed attempt.
            say: Receives what the user should know at once: workers that are lost, or of other versions.
            on_count: Receives how many workers there are, when that changes.
            on_phase: Receives what the start of the first worker has come to.
        """
        require("ray", extra="ray")
        import ray

        self._ray, self._make, self._retries, self._log, self._say = ray, make, retries, log, say
        self._on_phase, self._phase = on_phase, Phase.ENGINE
        self._deadlines = Deadlines(timeout_s)
        self._is_ours, self._is_local = not ray.is_initialized(), address is None
        self._needs = {"CPU": cpus, "GPU": gpus}
        self._has_room = True
        if self._is_ours:
            connect(ray, address)
        self._actor: Any = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus)
        self._queue: deque[_Attempt] = deque()
        self._idle: list[Any] = []
        self._in_flight: dict[Any, _Flight] = {}
        """Reference -> what it will bring."""
        self._restarts: list[float] = []
        """Times at which workers that could not be started are tried again."""
        self._actors: set[Any] = set()
        self._names: dict[Any, str] = {}
        self._versions: dict[Any, Mapping[str, str]] = {}
        self._num_failed_starts, self._has_started = 0, False
        self._on_count, self._counted = on_count, WorkerCounts(wanted=0, alive=0, starting=0, lost=0)
        self._num_wanted = self._num_lost = 0
        try:
            if address is not None:
                self._phase = Phase.PLACING
                self._on_phase(self._phase)
            self._num_wanted = _num_workers(ray.cluster_resources(), count, cpus=cpus, gpus=gpus)
            for _ in range(self._num_wanted):
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
        return bool(self._queue) or any(flight.attempt for flight in self._in_flight.values())

    def submit(self, job: Job) -> None:
        """See Pool."""
        self._queue.append(_Attempt(job, 1))
        self._dispatch()

    def wait(self) -> JobResult | None:
        """See Pool."""
        while True:
            self._tell_count()
            reference = self._next()
            if reference is None:
                continue
            flight = self._in_flight.pop(reference)
            try:
                result = self._ray.get(reference, timeout=0)
            except self._ray.exceptions.GetTimeoutError:
                answered = self._replace(flight, *self._hung(flight))
            except self._ray.exceptions.RayError as error:  # the actor died or raised
                is_restart = flight.attempt is None and self._has_started
                answered = self._replace(flight, _fault(error, is_restart=is_restart), str(error))
            else:
                answered = self._arrived(flight, result)
                self._tell_count()
                if flight.step in ("placed", "start"):
                    continue
                return answered
            if answered is not None:
                return answered

    def _next(self) -> Any:
        """Returns the reference of what has arrived or is overdue; None if it is time to look again."""
        now = time.monotonic()
        for _ in range(len(self._restarts)):
            if self._restarts[0] > now:
                break
            self._restarts.pop(0)
            self._start_worker()
        due = {reference: f.began_s + self._deadline_s(f) for reference, f in self._in_flight.items()}
        until = min([*due.values(), *self._restarts])
        if not due:
            time.sleep(max(0.0, until - now))
            return None
        if waits := not self._names and all(flight.step == "placed" for flight in self._in_flight.values()):
            until = min(until, now + _LOOK_S)
        pause_s = None if math.isinf(until) else max(0.0, until - now)
        arrived, _ = self._ray.wait(list(due), num_returns=1, timeout=pause_s)
        if waits and not arrived:
            self._look_for_room()
        now = time.monotonic()
        return next(iter(arrived), None) or next((ref for ref, end in due.items() if end <= now), None)

    def _look_for_room(self) -> None:
        """Says that no node is left to wait for: another may join a cluster; on this machine none ever does.

        Raises:
            MachineError: the cluster was this machine's own.
        """
        had_room, self._has_room = (
            self._has_room,
            any(
                node["Alive"]
                and all(node["Resources"].get(kind, 0.0) >= number for kind, number in self._needs.items())
                for node in self._ray.nodes()
            ),
        )
        if self._has_room:
            return
        if self._is_ours and self._is_local:
            raise MachineError(
                "Ray on this machine has died, and all workers with it: log.txt may say why. Nothing is lost: the same "
                "command starts it anew and goes on"
            )
        if had_room:
            self._say("no worker is left, and no node of the cluster that could hold one: waiting for a node")

    def _deadline_s(self, flight: _Flight) -> float:
        """Returns the seconds that a flight may take; a busy cluster may have no room for an actor for days."""
        return math.inf if flight.step == "placed" else self._deadlines.of(flight.phase)

    def _come_to(self, phase: Phase) -> None:
        """Says what the first start has come to, once: the others do not go back."""
        order = list(Phase)
        if not self._has_started and order.index(phase) > order.index(self._phase):
            self._phase = phase
            self._on_phase(phase)

    def _arrived(self, flight: _Flight, result: Any) -> JobResult | None:
        actor, attempt = flight.actor, flight.attempt
        if flight.step == "placed":
            self._come_to(Phase.ENGINE)
            self._in_flight[actor.start.remote()] = _Flight(actor, None, time.monotonic(), "start")
            return None
        self._deadlines.took(flight.phase, time.monotonic() - flight.began_s)
        if flight.step == "start":
            if result:
                self._come_to(Phase.CANARY)
            self._in_flight[actor.canary.remote()] = _Flight(actor, None, time.monotonic(), "canary")
            return None
        self._idle.append(actor)
        if attempt and not attempt.job.is_answered_by(result):
            attempt.others.add(actor)
            if self._placed - attempt.others:
                self._queue.appendleft(attempt)
                self._dispatch()
                return None
        if attempt is None:
            self._num_failed_starts, self._has_started = 0, True
            self._names[actor], self._versions[actor], notes = result
            log_notes(self._log, notes)
            if others := self._versions[actor]:
                listed = ", ".join(f"{package} {version}" for package, version in sorted(others.items()))
                self._say(f"worker {self._names[actor]} has other versions than the driver: {listed}")
        self._dispatch()
        if attempt is None:
            return None
        return JobResult(
            job=attempt.job,
            score=result,
            attempts=attempt.number,
            worker=self._names[actor],
            lost_s=attempt.lost_s,
            versions=self._versions[actor],
        )

    def _hung(self, flight: _Flight) -> tuple[Exception, str]:
        what = "start" if flight.attempt is None else f"answer trial {flight.attempt.job.number}"
        name = self._names.get(flight.actor, "a worker")
        text = f"{name} did not {what} within {self._deadline_s(flight):.0f} s and was killed"
        self._say(text)
        return MachineError(text), text

    def close(self) -> None:
        """See Pool."""
        if self._is_ours:
            self._ray.shutdown()
            return
        for actor in self._actors:
            self._ray.kill(actor)

    def _tell_count(self) -> None:
        starting = sum(flight.attempt is None for flight in self._in_flight.values()) + len(self._restarts)
        counted = WorkerCounts(wanted=self._num_wanted, alive=len(self._names), starting=starting, lost=self._num_lost)
        if counted != self._counted:
            self._counted = counted
            self._on_count(counted)

    def _start_worker(self) -> None:
        actor = self._actor.remote(self._make)
        self._actors.add(actor)
        self._in_flight[actor.placed.remote()] = _Flight(actor, None, time.monotonic(), "placed")

    @property
    def _placed(self) -> set[Any]:
        """The actors that answer, or will within a deadline; not those for which the cluster has no room."""
        starting = {f.actor for f in self._in_flight.values() if f.step in ("start", "canary")}
        return starting | self._names.keys()

    def _dispatch(self) -> None:
        for attempt in list(self._queue):
            waits = bool(self._placed - attempt.others)  # else all were tried: what any says is the answer
            actor = next((actor for actor in self._idle if not waits or actor not in attempt.others), None)
            if actor is None:
                continue
            self._idle.remove(actor)
            self._queue.remove(attempt)
            self._in_flight[actor.evaluate.remote(attempt.job)] = _Flight(actor, attempt, time.monotonic())

    def _replace(self, flight: _Flight, fault: Exception, traceback: str) -> JobResult | None:
        """Replaces a failed worker; returns the job's FAILED result if this was its last attempt."""
        attempt = flight.attempt
        self._num_lost += flight.actor in self._names
        self._ray.kill(flight.actor)
        self._actors.discard(flight.actor)
        self._names.pop(flight.actor, None)
        self._versions.pop(flight.actor, None)
        if attempt is None:
            self._failed_to_start(fault, traceback)
            self._dispatch()
            return None
        log_failure(self._log, attempt.job, traceback, attempt=attempt.number, retries=self._retries)
        lost_s = attempt.lost_s + time.monotonic() - flight.began_s
        self._start_worker()
        if attempt.number > self._retries:
            return failed(attempt.job, described(fault), attempts=attempt.number, lost_s=lost_s)
        self._queue.appendleft(_Attempt(attempt.job, attempt.number + 1, lost_s, attempt.others))
        self._dispatch()
        return None

    def _failed_to_start(self, fault: Exception, traceback: str) -> None:
        """Starts another worker, at once or later; raises MachineError if no worker is left."""
        self._num_failed_starts += 1
        log_failure(self._log, None, traceback, attempt=self._num_failed_starts, retries=MAX_FAILED_STARTS - 1)
        is_final = isinstance(fault, SwapError)
        if self._num_failed_starts < MAX_FAILED_STARTS and not is_final:
            self._start_worker()
            return
        if not self._names and not self._in_flight:
            raise no_worker(fault) from None
        lost = f"a worker could not be started, {len(self._names)} go on: {described(fault)}"
        if is_final:
            self._say(f"{lost}. It is not replaced")
            return
        doublings = min(self._num_failed_starts - MAX_FAILED_STARTS, 20)
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0**doublings)
        self._say(f"{lost}. It is tried again in {pause_s:.0f} s")
        self._restarts = sorted([*self._restarts, time.monotonic() + pause_s])


def _fault(error: Exception, *, is_restart: bool) -> Exception:
    """Returns the fault behind an error of Ray's; raises what is none: the user's mistake, or a bug."""
    from ray.exceptions import UnserializableException

    cause = getattr(error, "cause", error if isinstance(error, UnserializableException) else None)
    if cause is None or (is_fault_again(cause) if is_restart else is_fault(cause)):
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
