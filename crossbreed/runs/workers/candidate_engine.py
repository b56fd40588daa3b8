"""The adoption of candidates by a worker's engine: by their changed weights, as adapters, or by their recipes."""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from crossbreed.errors import EngineError, InputError, InvalidWeights
from crossbreed.fitness import (
    AdapterEngineConfig,
    Engine,
    EngineConfig,
    RecipeEngine,
    Request,
    Surroundings,
    UsesRun,
    WeightEngine,
    build_adapter_engine,
    build_engine,
    build_recipe_engine,
    check_recipes,
    check_swap,
)
from crossbreed.runs.search.pool import closed_on_error
from crossbreed.runs.workers.adopted import Adopted
from crossbreed.types import Recipe, WeightStream

if TYPE_CHECKING:
    from crossbreed.runs.weights import Weights

E = TypeVar("E", bound=Engine)

_NOTHING_AROUND = Surroundings()
_HERE = nullcontext()


class CandidateEngine(Protocol):
    """An engine, and the form in which it receives candidates."""

    def adopt(self, recipe: Recipe) -> Adopted:
        """Loads a candidate; raises EngineError, MachineError or InvalidWeights on failure."""
        ...

    def confirm(self) -> None:
        """Confirms that the candidate adopted last was evaluated without fault: the next one may reuse its tensors."""
        ...

    def canary(self, recipe_a: Recipe, recipe_b: Recipe, requests: Sequence[Request]) -> tuple[str, ...]:
        """Verifies that the engine does not mix up candidates, and returns what could not be verified.

        Raises:
            SwapError: it mixes them up.
        """
        ...

    def close(self) -> None:
        """Frees the engine."""
        ...


def start_candidate_engine(
    config: EngineConfig, weights: "Weights | None", around: Surroundings = _NOTHING_AROUND
) -> CandidateEngine:
    """Starts an engine, with the sources' weights unless it takes recipes, and what is around it if it uses that."""
    if weights is None:
        return CandidateEngineByRecipe(_begun(build_recipe_engine(config), around))
    end_token_ids = weights.sources.end_token_ids
    if isinstance(config, AdapterEngineConfig):
        from crossbreed.runs.workers.adapter_engine import CandidateEngineByAdapter  # needs torch

        adapter_engine = build_adapter_engine(config, weights.host, end_token_ids=end_token_ids)
        return CandidateEngineByAdapter(_begun(adapter_engine, around), config, weights)
    with ExitStack() as stack:
        host = stack.enter_context(weights.engine_host())
        engine = _begun(build_engine(config, host, end_token_ids=end_token_ids), around)
        return CandidateEngineByWeights(engine, weights, host=stack.pop_all())


def verified(
    engine: CandidateEngine, base: Recipe, others: Iterable[Recipe], requests: Sequence[Request]
) -> tuple[str, ...]:
    """Verifies an engine by its canary, with the base and the first of some merges whose weights are numbers.

    Returns:
        What could not be verified, a sentence each.

    Raises:
        SwapError: the engine mixes up candidates.
        InputError: none of the merges has weights that are numbers.
    """
    faults = list[str]()
    for other in others:
        try:
            notes = engine.canary(base, other, requests)
        except InvalidWeights as fault:
            faults.append(str(fault))
        else:
            return (*(f"another merge was taken: {fault}" for fault in faults), *notes)
    raise InputError(
        f"no plain merge of the sources can be written in {base.dtype}",
        expected="numbers that the dtype of merges holds",
        got=next(iter(faults), "no merge"),
        where="dtype",
        fix="set `dtype: bfloat16` or `dtype: float32` in the spec, or leave out the expert that is out of range",
    )


def _begun(engine: E, around: Surroundings) -> E:
    if isinstance(engine, UsesRun):
        with closed_on_error(engine):
            engine.begin(around)
    return engine


class CandidateEngineByRecipe:
    """An engine that makes the weights itself."""

    def __init__(self, engine: RecipeEngine) -> None:
        self.engine = engine

    def adopt(self, recipe: Recipe) -> Adopted:
        """See CandidateEngine."""
        start = time.perf_counter()
        handle = self.engine.adopt(recipe)
        fingerprint: object = handle.fingerprint
        if fingerprint is not None and (not isinstance(fingerprint, str) or not fingerprint.isprintable()):
            got = f"{fingerprint!r:.120} ({type(fingerprint).__name__})"
            raise EngineError(f"expected a text or None as the fingerprint of an engine's weights, got {got}")
        return Adopted(handle=handle, fingerprint=fingerprint, seconds={"swap": time.perf_counter() - start})

    def confirm(self) -> None:
        """See CandidateEngine."""

    def canary(self, recipe_a: Recipe, recipe_b: Recipe, requests: Sequence[Request]) -> tuple[str, ...]:
        """See CandidateEngine."""
        check_recipes(self.engine, recipe_a, recipe_b, requests)
        return self.engine.notes if isinstance(self.engine, UsesRun) else ()

    def close(self) -> None:
        """See CandidateEngine."""
        self.engine.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """The candidate that the engine holds."""

    recipe: Recipe
    digests: Mapping[str, str]
    """Tensor of the engine's model -> digest, without idle ones."""


class CandidateEngineByWeights:
    """An engine that takes weights, and is sent only the tensors that it does not have yet."""

    def __init__(
        self, engine: WeightEngine, weights: "Weights", *, host: AbstractContextManager[object] = _HERE
    ) -> None:
        """Takes an engine.

        Args:
            engine: Started on `weights.engine_host()`.
            weights: Of the sources.
            host: Closed with the engine.
        """
        self.engine, self._weights, self._host = engine, weights, host
        self._held: _Held | None = None
        """None while that is not certain: then all tensors are sent."""
        self._adopted: _Held | None = None

    def adopt(self, recipe: Recipe) -> Adopted:
        """See CandidateEngine."""
        start = time.perf_counter()
        held, self._held, self._adopted = self._held, None, None
        kept = self._kept(held, recipe) if held else frozenset()
        filling = self._weights.filling(recipe)
        known = {} if held is None else {name: held.digests[name] for name in kept & held.digests.keys()}
        digests = {filling.own_name(name): digest for name, digest in known.items()}
        fingerprinted = self._weights.fingerprinted(recipe, kept=digests)
        stream = _Timed(filling.filled(fingerprinted, kept=kept))
        handle = self.engine.adopt(recipe, iter(stream), kept=kept)
        made = {filling.engine_name(name): digest for name, digest in fingerprinted.digests.items()}
        self._adopted = _Held(recipe=recipe, digests=made)
        swap_s = time.perf_counter() - start - stream.seconds
        seconds = {"materialize": stream.seconds, "swap": swap_s}
        return Adopted(handle=handle, fingerprint=fingerprinted.value, seconds=seconds)

    def confirm(self) -> None:
        """See CandidateEngine."""
        self._held = self._adopted

    def canary(self, recipe_a: Recipe, recipe_b: Recipe, requests: Sequence[Request]) -> tuple[str, ...]:
        """See CandidateEngine."""
        self._held = None
        return check_swap(self.engine, recipe_a, recipe_b, self._whole, requests)

    def close(self) -> None:
        """See CandidateEngine."""
        with self._host:
            self.engine.close()

    def _whole(self, recipe: Recipe) -> WeightStream:
        """Returns all weights of a recipe, as the engine takes them."""
        return self._weights.filling(recipe).filled(self._weights.materialize(recipe))

    def _kept(self, held: _Held, recipe: Recipe) -> frozenset[str]:
        """Returns the tensors that need not be made and sent again."""
        return self.engine.keeps(self._weights.unchanged(held.recipe, recipe))


@dataclass(slots=True)
class _Timed:
    """A weight stream that measures the time of making its tensors."""

    stream: WeightStream
    seconds: float = field(default=0.0, init=False)

    def __iter__(self) -> WeightStream:
        while True:
            start = time.perf_counter()
            item = next(self.stream, None)
            self.seconds += time.perf_counter() - start
            if item is None:
                return
            yield item
