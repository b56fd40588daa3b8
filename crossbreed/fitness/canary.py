"""The canary: verifies, before any score is trusted, that an engine answers with exactly the weights it was given.

It compares the engine with the truth, as far as there is one, and then with itself. It uses the user's own prompts,
and two long ones that differ only at the end (many blocks of a prefix cache):

- the engine as it started on the host's files must answer as after adopting the weights in these files;
- after adopting weights in which *every* tensor differs from the host's (`canary_weights`), it must answer as another
  library does with them: an engine that takes one tensor wrongly, or not at all, differs;
- stale weights: adopt A, then B, then A again. A must answer as before, and B differently from A;
- a stale cache: answers must not depend on whether the engine may use its prefix cache;
- a stale part: if an engine keeps unchanged tensors, every other tensor of every other layer is changed, and the
  answers must be the same as when everything is sent;
- a stale output head, for instance a packed copy of tied embeddings: answers must react to a change of the head alone.

What cannot be seen here is no failure; it is returned as a note. For an engine that takes recipes, stale weights and
caches are tested, and that the same recipe keeps its fingerprint.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain

from crossbreed.errors import EngineError, InvalidWeights, SwapError
from crossbreed.fitness.canary_probes import (
    Scored,
    ask,
    can_move,
    distance,
    limit_of,
    mean_gap,
    median_gap,
    probes_of,
    scored,
    without_cache,
)
from crossbreed.fitness.protocol import Checkable, Handle, RecipeEngine, Remembers, StartsOnHost, Truth, WeightEngine
from crossbreed.fitness.requests import Loglikelihood, Request, Response
from crossbreed.sources.naming import layer_of, may_be_head
from crossbreed.types import Recipe, WeightStream

ROUNDING_FACTOR = 2.5
"""The tolerance for the mean distance from the truth, as a multiple of what rounding to the engine's dtype does to it.

vLLM in bfloat16 is as far from the truth as transformers in bfloat16: with SmolLM2-135M's own weights 0.08 nats, with
`other_weights` 0.11 and 0.15. A last down_proj that is never taken moves the latter answers by 2.4, a last norm by 0.8.
"""
MEDIAN_SPREAD = 8.0
"""The tolerance for the median distance is a multiple of rounding's too: 1 + this / sqrt(tokens).

Few tokens dominate a mean, so that its tolerance has to be wide; medians of two roundings of SmolLM2-135M are within
5 % of one another, and vLLM's is 0.88 of transformers'. The last layer's `q_proj` and `k_proj`, never taken, make it
1.7 and 1.9 times rounding's (1.5 allowed); the `k_proj` of layer 24 stays below.
"""
MAX_ROUNDING = 1.0
"""The largest effect of rounding, in nats per token, beside which a fault could be seen."""
TRUTH_TOLERANCE = 0.01
"""The tolerance for that distance in float32, where libraries differ by the order of sums and by approximations.

Llama and Mixtral differ by 1e-6, Gemma 2 by 0.0012.
"""
_REPORT = "do not trust scores of this engine here: report it, with architecture and versions"
_SERVICE_ADVICE = "do not trust scores of this engine: report it, with engine and version, to its operator"
_STALE_CACHE = "the engine still uses the prefix cache of the old weights: answers with and without it differ"
_UNCHECKED = "the answers were not compared with transformers'"


def check_swap(
    engine: WeightEngine,
    recipe_a: Recipe,
    recipe_b: Recipe,
    make_stream: Callable[[Recipe], WeightStream],
    requests: Sequence[Request],
) -> tuple[str, ...]:
    """Compares the engine with the truth; swaps A -> B -> A and mixtures of the two, as a search would.

    Args:
        engine: the engine, newly started; adopts up to nine times.
        recipe_a: any recipe.
        recipe_b: another one.
        make_stream: returns a new stream of a recipe's weights.
        requests: a few of the run's own.

    Returns:
        What could not be verified here, and why: a sentence each.

    Raises:
        SwapError: the engine mixes up candidates; the message describes the symptom and a remedy.
    """
    return tuple(_Canary(engine, recipe_a, recipe_b, make_stream).notes(requests))


@dataclass(frozen=True, slots=True)
class _Canary:
    """An engine under test, and two candidates."""

    engine: WeightEngine
    recipe_a: Recipe
    recipe_b: Recipe
    make_stream: Callable[[Recipe], WeightStream]

    @property
    def advice(self) -> str:
        """The remedy in the message about an engine that fails."""
        other = self.engine.advice if isinstance(self.engine, Checkable) else ""
        return f"{_REPORT}, or {other}" if other else _REPORT

    def notes(self, requests: Sequence[Request]) -> Iterator[str]:
        """Makes all comparisons; yields a note for each that could not be made."""
        digests = _digests(self.a())
        differing = _differing(digests, _digests(self.make_stream(self.recipe_b)))
        started = self.engine.as_started() if isinstance(self.engine, StartsOnHost) else None
        if started is None:
            handle = self.engine.adopt(self.recipe_a, self.a())
            probes = probes_of(handle, requests)
            first = ask(handle, probes)
            limit = limit_of(handle, probes, first, advice=self.advice)
        else:
            probes = probes_of(started, requests)
            handle, first, limit = self._check_start(started, probes, digests)
        if isinstance(self.engine, StartsOnHost) and started is None:
            yield "the engine did not start on the host's weights: its own reading of them was not compared"
        of_a = scored(handle, requests)

        unchanged = frozenset(digests) - differing
        handle = self._adopt(self.recipe_b, self.make_stream(self.recipe_b), unchanged=unchanged)
        second = ask(handle, probes)
        self._require_alike(second, ask(handle, without_cache(probes)), limit, f"after a swap {_STALE_CACHE}")
        if differing and second == first:
            unchanged = frozenset()
            can_see = can_move(of_a.answers)  # where every answer is certain, or none is scored, nothing can change
            if can_see and self._answers_of_other_weights(of_a.requests)[0] == of_a.answers:
                raise self._error("two different merges give the same answers: the engine keeps its old weights")
            yield "no signal: the base and the uniform merge give the same answers to the first items of each task"

        again = ask(self._adopt(self.recipe_a, self.a(), unchanged=unchanged), probes)
        self._require_alike(first, again, limit, "the same weights, adopted again, give different answers")
        heads = frozenset(filter(may_be_head, digests))
        self._check_head(heads, digests, of_a)
        self._check_parts(differing, frozenset(digests) - heads, of_a.requests, limit)
        if not isinstance(self.engine, Checkable):
            if not heads:
                yield "no output head was found under a name that is known here: a change of it alone was not tested"
        elif why_not := self._check_truth(self.engine, of_a.texts):
            yield f"{_UNCHECKED}: {why_not}"

    def a(self) -> WeightStream:
        """Returns the weights of A."""
        return self.make_stream(self.recipe_a)

    def _check_start(
        self, started: Handle, probes: Sequence[Request], digests: Mapping[str, str]
    ) -> tuple[Handle, list[Response], float]:
        """Compares the engine as it started with itself after adopting its files; returns it with A, and the limit."""
        assert isinstance(self.engine, StartsOnHost)
        as_started = ask(started, probes)
        limit = limit_of(started, probes, as_started, advice=self.advice)
        handle = self.engine.adopt(self.recipe_a, self.engine.host_weights())
        answers = ask(handle, probes)
        problem = "the engine does not answer as it did when it started on the same weights"
        self._require_alike(as_started, answers, limit, problem)
        if _digests(self.engine.host_weights()) != digests:
            handle = self.engine.adopt(self.recipe_a, self.a())
            answers = ask(handle, probes)
        return handle, answers, limit

    def _check_head(self, heads: frozenset[str], digests: Mapping[str, str], of_a: Scored) -> None:
        """Changes the output head of A alone."""
        if not heads or not can_move(of_a.answers):
            return
        handle = self._adopt(self.recipe_a, _with_other_head(self.a()), unchanged=digests.keys() - heads)
        if ask(handle, of_a.requests) == of_a.answers:
            raise self._error("a change of the output head does not affect the engine's answers")

    def _check_parts(
        self, differing: frozenset[str], unchanged: frozenset[str], requests: Sequence[Request], limit: float
    ) -> None:
        """Compares a mixture of A and B, of which only the changed part is sent, with one that is sent as a whole."""
        some = frozenset(name for name in sorted(differing)[::2] if (layer_of(name) or 0) % 2 == 0)
        kept = self.engine.keeps(unchanged - some)
        if not kept or not requests:
            return

        def mixture() -> WeightStream:
            pairs = zip(self.a(), self.make_stream(self.recipe_b), strict=True)
            return ((name, of_b if name in some else of_a) for (name, of_a), (_, of_b) in pairs)

        sent = ((name, tensor) for name, tensor in mixture() if name not in kept)
        part = ask(self.engine.adopt(self.recipe_a, sent, kept=kept), requests)
        whole = ask(self.engine.adopt(self.recipe_a, mixture()), requests)
        problem = "sending only the changed tensors gives other answers than sending all"
        self._require_alike(part, whole, limit, problem)

    def _check_truth(self, engine: Checkable, texts: Sequence[Loglikelihood]) -> str:
        """Compares the answers with another library's, for weights that all differ; returns why that was not done."""
        from crossbreed.fitness.canary_weights import other_weights  # needs torch

        if not texts:
            return "no text fits the context"
        answers, why_not = self._answers_of_other_weights(texts)
        if why_not:
            return why_not
        try:
            truth = engine.truth_of(other_weights(self.a()), texts)
        except EngineError as error:
            return str(error)
        return compare_with_truth(answers, truth, advice=self.advice)

    def _answers_of_other_weights(self, requests: Sequence[Request]) -> tuple[list[Response], str]:
        """Returns the answers with weights that all differ, or none and the reason."""
        from crossbreed.fitness.canary_weights import other_weights  # needs torch

        try:
            return ask(self.engine.adopt(self.recipe_a, other_weights(self.a())), requests), ""
        except (EngineError, InvalidWeights) as error:
            return [], str(error)

    def _adopt(self, recipe: Recipe, weights: WeightStream, *, unchanged: Collection[str]) -> Handle:
        """Adopts weights of which some are the same as in the candidate before, as a search does."""
        kept = self.engine.keeps(unchanged)
        return self.engine.adopt(recipe, ((name, tensor) for name, tensor in weights if name not in kept), kept=kept)

    def _require_alike(self, some: Sequence[Response], others: Sequence[Response], limit: float, problem: str) -> None:
        require_alike(some, others, limit, problem, self.advice)

    def _error(self, problem: str) -> SwapError:
        return SwapError(f"{problem}; {self.advice}")


def compare_with_truth(answers: Sequence[Response], truth: Truth, *, advice: str) -> str:
    """Compares scored texts with what another library says of them; returns why that says nothing, if so.

    Raises:
        SwapError: they differ by more than rounding explains.
    """
    rounding = mean_gap(truth.rounded, truth.exact)
    if not math.isfinite(rounding) or any(map(math.isnan, chain(*truth.exact))):
        return "its own are NaN or infinite"
    if rounding > MAX_ROUNDING:
        return f"rounding alone changes its own by {rounding:.3g} nats per token, which would hide a fault"
    found, num_tokens = tuple(answer.logprobs for answer in answers), sum(map(len, truth.exact))
    median_factor = 1 + MEDIAN_SPREAD / num_tokens**0.5
    for kind, gap_of, factor in (("average", mean_gap, ROUNDING_FACTOR), ("median", median_gap, median_factor)):
        limit = max(TRUTH_TOLERANCE, factor * gap_of(truth.rounded, truth.exact))
        if (gap := gap_of(found, truth.exact)) > limit:  # never NaN
            raise SwapError(
                "the engine does not answer as transformers does with the same weights, "
                f"by {gap:.3g} nats per token in the {kind} (at most {limit:.3g} expected); {advice}"
            )
    return ""


def check_recipes(engine: RecipeEngine, recipe_a: Recipe, recipe_b: Recipe, requests: Sequence[Request]) -> None:
    """Adopts A, then B, then A again, and compares answers and fingerprints.

    Args:
        engine: the engine; adopts three times.
        recipe_a: any recipe.
        recipe_b: one with different weights.
        requests: a few of the run's own.

    Raises:
        SwapError: the engine mixes up candidates; the message describes the symptom.
    """
    with engine.asking_anew() if isinstance(engine, Remembers) else nullcontext():
        _check_recipes(engine, recipe_a, recipe_b, requests)


def _check_recipes(engine: RecipeEngine, recipe_a: Recipe, recipe_b: Recipe, requests: Sequence[Request]) -> None:
    handle = engine.adopt(recipe_a)
    probes = probes_of(handle, requests)
    first, vouched_a = ask(handle, probes), handle.fingerprint
    limit = limit_of(handle, probes, ask(handle, probes), advice=_SERVICE_ADVICE)

    handle = engine.adopt(recipe_b)
    second, vouched_b = ask(handle, probes), handle.fingerprint
    after_b = f"after another recipe {_STALE_CACHE}"
    require_alike(second, ask(handle, without_cache(probes)), limit, after_b, _SERVICE_ADVICE)
    if second == first and can_move(first):  # texts alone, and what is certain, may agree
        raise SwapError(f"two different recipes give the same answers; {_SERVICE_ADVICE}")
    if vouched_a is not None and vouched_b == vouched_a:
        raise SwapError(f"two different recipes have the same fingerprint, {vouched_a}; {_SERVICE_ADVICE}")

    handle = engine.adopt(recipe_a)
    again = "the same recipe, adopted again, gives different answers"
    require_alike(first, ask(handle, probes), limit, again, _SERVICE_ADVICE)
    if handle.fingerprint != vouched_a:
        raise SwapError(
            f"the same recipe, adopted again, has fingerprint {handle.fingerprint} instead of {vouched_a}; "
            f"{_SERVICE_ADVICE}"
        )


def require_alike(
    some: Sequence[Response], others: Sequence[Response], limit: float, problem: str, advice: str
) -> None:
    """Raises SwapError where two lists of answers are further apart than the limit."""
    if (gap := distance(some, others)) > limit:
        raise SwapError(f"{problem}, by {gap:.3g} nats per token (at most {limit:.3g} expected); {advice}")


def _differing(some: Mapping[str, str], others: Mapping[str, str]) -> frozenset[str]:
    return frozenset(name for name in some if some[name] != others[name])


def _with_other_head(weights: WeightStream) -> WeightStream:
    """Changes the last rows of head and embedding (rare or unused tokens) so that one of them becomes likely."""
    for name, tensor in weights:
        if may_be_head(name):
            tensor = tensor.clone()
            row = 10 * tensor.float().mean(0).sign() * tensor.float().abs().max()
            tensor[-8:-4], tensor[-4:] = row, -row
        yield name, tensor


def _digests(weights: WeightStream) -> dict[str, str]:
    from crossbreed.sources.hashes import digest_of  # needs torch

    return {name: digest_of(tensor) for name, tensor in weights}
