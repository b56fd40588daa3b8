"""The parts that the service's paths share."""

from asyncio import Lock
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

from crossbreed.runs.spec.serve import ServeConfig
from crossbreed.runs.workers.adopted import Adopted
from crossbreed.service.accounts import Account, Accounts
from crossbreed.service.engine_thread import EngineThread, answered_in
from crossbreed.service.merges import Merges
from crossbreed.service.metrics import Metrics
from crossbreed.service.provider import Provider
from crossbreed.service.recipes import RecipeRules
from crossbreed.service.texts import Texts
from crossbreed.service.writer import BESIDE, Writer
from crossbreed.types import Recipe

T = TypeVar("T")
_MOST_THREADS = 4


@dataclass(eq=False, slots=True, kw_only=True)
class Service:
    """An open service."""

    provider: Provider
    engine: EngineThread
    accounts: Accounts
    merges: Merges
    rules: RecipeRules
    metrics: Metrics = field(default_factory=Metrics)
    writer: Writer = field(default_factory=Writer)
    """Writes checkpoints."""
    multiplying: Lock = field(default_factory=Lock)
    """Held while inner products are computed."""
    _threads: CapacityLimiter | None = None

    @property
    def config(self) -> ServeConfig:
        """The settings."""
        return self.provider.config

    @property
    def texts(self) -> Texts | None:
        """The tokenizer, if the engine uses the base's."""
        return self.provider.texts

    async def ask(self, recipe: Recipe, work: Callable[[Adopted], T], account: Account) -> T:
        """Has work done with a merge; see `EngineThread.ask`."""
        return await answered_in(self.engine.submit(recipe, work, owner=account.name), self.config.answer_s)

    async def ask_aside(self, work: Callable[[], T]) -> T:
        """Has a moment's work done with the sources; see `EngineThread.submit_aside`."""
        return await answered_in(self.engine.submit_aside(work, owner=BESIDE), self.config.answer_s)

    async def in_thread(self, call: Callable[..., T], *args: Any) -> T:  # passed on
        """Returns what takes milliseconds or more, without holding up other requests."""
        if self._threads is None:
            self._threads = CapacityLimiter(_MOST_THREADS)
        return await to_thread.run_sync(call, *args, limiter=self._threads)
