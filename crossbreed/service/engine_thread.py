"""The one thread that owns the engine. Work reaches it with the recipe that it is about, and runs with no other.

What reads the sources' weights and needs no merge runs here too, since the sources are this thread's; it comes in
slices of a moment each, between which others are answered.

An engine holds one merge at a time. Before each piece of work the thread compares the recipe that the engine holds with
the one that is asked for (whole: ids are short hashes), and has it adopted if they differ; after an error it trusts
nothing and adopts anew.

After a fault, and after a merge whose answers were NaN, the base must answer a probe. If it does not, the engine is
started again, canary and all. If that fails, the service ends: wrong answers are worse than none.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Thread
from time import monotonic
from typing import Any, Protocol, TypeVar

from crossbreed.errors import CrossbreedError, InputError, InvalidWeights, MachineError, is_fault
from crossbreed.fitness import wire
from crossbreed.runs.workers.adopted import Adopted
from crossbreed.runs.workers.candidate_engine import CandidateEngine
from crossbreed.service.fair_queue import ANY, FairQueue, Full
from crossbreed.service.logs import frames_of, said
from crossbreed.service.refusals import Refusal, bad_request, told
from crossbreed.types import Recipe

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_FULL_RETRY_S = 5.0


class Host(Protocol):
    """What the thread needs to know of sources and engine."""

    @property
    def base_recipe(self) -> Recipe:
        """The recipe of the base."""
        ...

    def start(self) -> CandidateEngine:
        """Starts the engine, and verifies it; raises CrossbreedError if it cannot be trusted."""
        ...

    def probe(self, adopted: Adopted) -> None:
        """Asks something harmless; raises if the answer is none."""
        ...

    def require_unchanged(self) -> None:
        """Raises MachineError if the sources' files are no longer those that were opened."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    recipe: Recipe | None
    """None: whatever the engine holds."""
    does: Callable[[CandidateEngine], Any]  # its result goes to who asked, unread
    future: "Future[Any]"


class EngineThread:
    """A queue of work, and the thread that does it."""

    def __init__(
        self, host: Host, *, queue: int, patience_s: float, on_broken: Callable[[BaseException], None]
    ) -> None:
        """Begins nothing yet.

        Args:
            host: Starts the engine.
            queue: Most requests of one owner that wait.
            patience_s: How long a request waits for later ones of the model that the engine holds.
            on_broken: Called, on the thread, when the engine has broken and does not start again.
        """
        self._host, self._on_broken = host, on_broken
        self._queue = FairQueue[_Job](bound=queue, patience_s=patience_s)
        self._changed = Condition()
        self._is_stopping = False
        self._held: tuple[Recipe, Adopted] | None = None
        self._since_s: float | None = None
        """When the work in hand was begun."""
        self.num_adopted = 0
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._ready: Future[None] = Future()

    def start(self) -> None:
        """Starts the engine, and returns when it answers; raises what starting it raised."""
        self._thread.start()
        self._ready.result()

    def stop(self, timeout_s: float | None = None) -> None:
        """Refuses what waits, lets the work in hand end, and frees the engine.

        What is left when the time is over ends with the process: nobody waits for a thread that hangs.
        """
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        self._refuse_all()

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive() and not self._is_stopping

    @property
    def busy_s(self) -> float:
        """Seconds that the work in hand has taken so far."""
        since_s = self._since_s
        return 0.0 if since_s is None else monotonic() - since_s

    @property
    def num_waiting(self) -> int:
        """Number of requests that wait."""
        return len(self._queue)

    def submit(self, recipe: Recipe, work: Callable[[Adopted], T], *, owner: str) -> "Future[T]":
        """Has work done while the engine holds a recipe's merge.

        Raises:
            Refusal: too much of the owner's waits, or the service stops.
        """
        future: Future[T] = Future()
        self._put(_Job(recipe=recipe, does=lambda engine: self._done(engine, recipe, work), future=future), owner)
        return future

    def submit_aside(self, work: Callable[[], T], *, owner: str) -> "Future[T]":
        """Has a moment's work done that reads sources and uses no merge. Raises as `submit`."""
        future: Future[T] = Future()
        self._put(_Job(recipe=None, does=lambda engine: work(), future=future), owner)
        return future

    def _put(self, job: _Job, owner: str) -> None:
        with self._changed:
            if not self.is_alive:
                raise Refusal(503, "the service stops", code=wire.OVERLOADED, retry_after_s=_FULL_RETRY_S)
            try:
                self._queue.put(job.recipe.id if job.recipe else ANY, job, owner=owner)
            except Full:
                message = "too many of your requests wait for the engine"
                raise Refusal(503, message, code=wire.OVERLOADED, retry_after_s=_FULL_RETRY_S) from None
            self._changed.notify()

    def _run(self) -> None:
        try:
            engine = self._host.start()
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        while (job := self._next()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            self._since_s = monotonic()
            try:
                job.future.set_result(job.does(engine))
            except InputError as error:
                job.future.set_exception(error)
            except BaseException as error:
                self._held = None
                job.future.set_exception(error)
                _LOG.warning("work failed", extra=_described(error, job))
                try:
                    engine = self._trusted(engine)
                except BaseException as fatal:
                    _LOG.error("the engine broke, and does not start again", extra=_described(fatal, None))
                    self._refuse_all()
                    self._on_broken(fatal)
                    return
            finally:
                self._since_s = None
        self._refuse_all()
        engine.close()

    def _next(self) -> _Job | None:
        with self._changed:
            while True:
                if self._is_stopping:
                    return None
                if (job := self._queue.take(self._held[0].id if self._held else None)) is not None:
                    return job
                self._changed.wait()

    def _done(self, engine: CandidateEngine, recipe: Recipe, work: Callable[[Adopted], T]) -> T:
        """Returns the result of some work, done with its own merge and no other."""
        if self._held is None or self._held[0] != recipe:
            self._held = None
            self._host.require_unchanged()
            adopted = engine.adopt(recipe)
            self._host.require_unchanged()  # else nobody knows what it was made of
            self._held = (recipe, adopted)
            self.num_adopted += 1
        result = work(self._held[1])
        engine.confirm()
        return result

    def _trusted(self, engine: CandidateEngine) -> CandidateEngine:
        """Returns the engine if the base answers, or else one that was started anew."""
        try:
            self._host.probe(engine.adopt(self._host.base_recipe))
            return engine
        except Exception as error:
            _LOG.error("the base does not answer; the engine starts again", extra=_described(error, None))
        try:
            engine.close()
        except Exception as error:
            _LOG.error("the broken engine was not closed", extra=_described(error, None))
        return self._host.start()

    def _refuse_all(self) -> None:
        with self._changed:
            self._is_stopping = True
            while (job := self._queue.take(None)) is not None:
                refusal = Refusal(503, "the service stops", code=wire.OVERLOADED, retry_after_s=_FULL_RETRY_S)
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(refusal)


async def answered_in(future: "Future[T]", timeout_s: float, *, is_shared: bool = False) -> T:
    """Waits for the result of some work.

    Args:
        future: The work's.
        timeout_s: How long.
        is_shared: Whether others wait for it, so that it goes on if this one gives up.

    Raises:
        Refusal: it does not come in time, or the work failed.
    """
    waiting = asyncio.wrap_future(future)
    try:
        return await asyncio.wait_for(asyncio.shield(waiting) if is_shared else waiting, timeout_s)
    except TimeoutError:
        message = f"the engine has not answered in {timeout_s:g} s"
        raise Refusal(503, message, code=wire.OVERLOADED, retry_after_s=_FULL_RETRY_S) from None
    except InvalidWeights as error:
        raise Refusal(422, str(error), code=wire.INVALID_WEIGHTS) from None
    except InputError as error:
        raise bad_request(told(error)) from None
    except CrossbreedError:
        message = "the engine could not answer; the provider's log says why"
        raise Refusal(500, message, code="engine_error") from None


def _described(error: BaseException, job: _Job | None) -> dict[str, object]:
    """Returns what the log may have of an error: a fault's message is the engine's, a bug's may hold a prompt."""
    is_ours = isinstance(error, CrossbreedError | MachineError) or is_fault(error)
    return said(
        model=job.recipe.id if job and job.recipe else None,
        error=type(error).__name__,
        reason=str(error)[:500] if is_ours else None,
        at=None if is_ours else frames_of(error),
    )
