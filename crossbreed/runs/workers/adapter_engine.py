"""The adoption of candidates as adapters: made and written here, loaded by an engine that holds the base."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp

from crossbreed.errors import InputError, MachineError
from crossbreed.fitness import AdapterEngine, AdapterEngineConfig, Engine, Handle, Loglikelihood, Request
from crossbreed.fitness.canary_adapters import check_adapters
from crossbreed.fitness.protocol import Checkable, Truth
from crossbreed.runs.adapter import RecipeAdapter, probe_adapter, recipe_adapter
from crossbreed.runs.weights import Weights
from crossbreed.runs.workers.adopted import Adopted
from crossbreed.sources.adapter_writing import Carrier, carriers
from crossbreed.types import Recipe


class CandidateEngineByAdapter:
    """An engine that is given each candidate as an adapter in a folder of its own."""

    def __init__(self, engine: AdapterEngine, config: AdapterEngineConfig, weights: Weights) -> None:
        self.engine, self._config, self._weights = engine, config, weights
        self._folder: Path | None = None
        """Of the adapter that the engine was given last."""

    def adopt(self, recipe: Recipe) -> Adopted:
        """See CandidateEngine. A recipe that changes nothing is the engine's own base."""
        start = time.perf_counter()
        made = recipe_adapter(
            recipe,
            self._weights.sources,
            rank=self._config.max_rank,
            cache=self._weights.cache,
            artifacts=self._weights.artifacts,
            found=self._carriers,
        )
        if made.error > self._config.max_loss:
            raise InputError(
                f"a candidate does not fit into an adapter of this rank: {made.summary}",
                expected=f"at most {self._config.max_loss:.2%}, the settings' `max_loss`",
                got=f"{made.error:.2%}: another model would be measured",
                where=f"fitness.engine.max_rank, recipe {recipe.id}",
                fix="raise `max_rank` (and --max-lora-rank of the servers) in a new run; or accept the loss, and go on "
                f"with this one: --set fitness.engine.max_loss={math.ceil(100 * made.error) / 100:g}",
            )
        made_s = time.perf_counter() - start
        handle = self._given(made) if made.changes else self.engine.base()
        seconds = {"materialize": made_s, "swap": time.perf_counter() - start - made_s}
        remark = None if made.is_exact else made.summary
        return Adopted(handle=handle, fingerprint=made.fingerprint, seconds=seconds, remark=remark)

    def confirm(self) -> None:
        """See CandidateEngine."""

    def canary(self, recipe_a: Recipe, recipe_b: Recipe, requests: Sequence[Request]) -> tuple[str, ...]:
        """See CandidateEngine. Asks adapters made for the purpose: one that changes nothing, one that changes much."""
        sources, names = self._weights.sources, sorted(self._weights.structure.touched_by_any & self._carriers.keys())
        silent, loud = (
            probe_adapter(recipe_b, sources, names, self._carriers, rank=self._config.max_rank, size=size)
            for size in (0.0, 1.0)
        )
        return check_adapters(
            self.engine, lambda: self._given(silent), lambda: self._given(loud), requests, self._truth_of(loud)
        )

    def close(self) -> None:
        """See CandidateEngine."""
        try:
            self.engine.close()
        finally:
            _remove(self._folder)

    @cached_property
    def _carriers(self) -> dict[str, Carrier]:
        return carriers(self._weights.sources.base)

    def _given(self, made: RecipeAdapter) -> Handle:
        """Writes an adapter into a new folder, and gives it to the engine; removes the one before."""
        try:
            folder = Path(mkdtemp(prefix=f"{made.recipe.id}-", dir=self.engine.room))
            folder.chmod(0o755)  # a server may run as another user
            made.write(folder)
        except OSError as error:
            raise MachineError(f"writing an adapter to {self.engine.room} failed: {error.strerror}") from error
        before, self._folder = self._folder, folder
        try:
            return self.engine.adopt(made.recipe, folder)
        finally:
            _remove(before)

    def _truth_of(self, made: RecipeAdapter) -> Callable[[Sequence[Loglikelihood]], Truth] | None:
        """Returns what scores with the base and an adapter in it, by another library, if the engine can have that."""
        engine: Engine = self.engine
        if not isinstance(engine, Checkable):
            return None
        return lambda requests: engine.truth_of(made.merged(self._weights.sources), requests)


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
