"""One worker: a plan's parts and an engine; then recipe in, Score out."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from crossbreed.errors import EngineError, InvalidWeights
from crossbreed.fitness import build_engine, evaluate
from crossbreed.fitness.canary import check_swap
from crossbreed.kernels import Facts, Fingerprinted, materialize, unchanged
from crossbreed.runs.plan import Plan
from crossbreed.runs.pool import Job
from crossbreed.runs.slopes import Slopes
from crossbreed.types import Cost, Recipe, Score, Status, WeightStream


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What the engine was given last."""

    recipe: Recipe
    digests: Mapping[str, str]
    """Of every tensor."""


class Worker:
    """Answers jobs one at a time. Lives in the driver's process or inside a Ray actor."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._engine = build_engine(plan.spec.fitness.engine, plan.sources.base.path)
        self._facts = Facts()
        kind = plan.slope_kind
        self._slopes = Slopes(plan, kind, self._engine, self._facts) if kind else None
        self._num_firsts = len(plan.firsts())
        self._held: _Held | None = None
        """None while it is not certain: then everything is sent."""

    def canary(self) -> None:
        """Proves that a swap is a swap, before any score is believed.

        Raises:
            SwapError: the engine does not answer with the weights it was given.
        """
        self._held = None
        recipes = dict(self._plan.firsts())
        items = self._plan.items["search"]
        requests = [r for task in self._plan.tasks for item in items[task.name].items[:8] for r in task.requests(item)]
        check_swap(
            self._engine,
            recipes["baseline:base"],
            recipes["baseline:uniform"],
            lambda recipe: materialize(recipe, self._plan.sources, self._facts, artifacts=self._plan.artifacts),
            requests,
        )

    def evaluate(self, job: Job) -> Score:
        """Materialises the recipe into the engine, as far as it is not there yet, and asks it the split's items.

        Raises:
            EngineError: it could not be measured; the caller decides how often to try.
        """
        start = time.perf_counter()
        recipe = job.recipe
        assert recipe is not None, "an engine answers with merged weights"
        held, self._held = self._held, None
        sources = self._plan.sources
        try:
            kept = self._kept(held, recipe) if held else {}
            weights = materialize(recipe, sources, self._facts, without=kept.keys(), artifacts=self._plan.artifacts)
            fingerprinted = Fingerprinted(weights, base=sources.base, kept=kept)
            stream = _Timed(fingerprinted)
            handle = self._engine.adopt(recipe, iter(stream), kept=kept.keys())
            adopted = time.perf_counter()
            answers = evaluate(handle, self._plan.tasks, self._plan.items[job.split])
            answered = time.perf_counter()
        except InvalidWeights as error:
            return Score(status=Status.INVALID, error=str(error), cost=Cost(seconds={"other": _since(start)}))
        seconds = {
            "materialize": stream.seconds,
            "swap": adopted - start - stream.seconds,
            "answer": answered - adopted,
        }
        num_items, slopes, fault = answers.num_items, None, None
        if self._slopes and job.split == "search" and job.number >= self._num_firsts:
            slopes, fault = _tried(self._slopes, recipe)
            seconds["slopes"] = _since(answered)
            num_items += self._slopes.num_items if slopes is not None else 0
        if fault is None:
            self._held = _Held(recipe=recipe, digests=fingerprinted.digests)
        return Score(
            status=Status.OK,
            tasks=answers.tasks,
            texts=answers.texts,
            slopes=slopes,
            fingerprint=fingerprinted.value,
            cost=Cost(items=num_items, tokens=answers.num_tokens, seconds=seconds),
            error=fault,
        )

    def close(self) -> None:
        """Frees the engines."""
        if self._slopes:
            self._slopes.close()
        self._engine.close()

    def _kept(self, held: _Held, recipe: Recipe) -> dict[str, str]:
        """Returns the digests of the tensors that are made and sent no second time."""
        same = unchanged(held.recipe, recipe, self._plan.sources, self._facts, artifacts=self._plan.artifacts)
        return {name: held.digests[name] for name in self._engine.keeps(same)}


class _Timed:
    """A weight stream that knows how long its maker took."""

    def __init__(self, stream: WeightStream) -> None:
        self._stream = stream
        self.seconds = 0.0

    def __iter__(self) -> WeightStream:
        while True:
            start = time.perf_counter()
            item = next(self._stream, None)
            self.seconds += _since(start)
            if item is None:
                return
            yield item


def _tried(slopes: Slopes, recipe: Recipe) -> tuple[tuple[float, ...] | None, str | None]:
    """The slopes, or why there are none: what was measured is not thrown away for want of them."""
    try:
        return slopes.at(recipe), None
    except (EngineError, InvalidWeights) as error:
        return None, f"no slopes: {error}"


def _since(start: float) -> float:
    return time.perf_counter() - start
