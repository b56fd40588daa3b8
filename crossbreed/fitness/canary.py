"""The canary: verifies, before any score is trusted, that an engine answers with exactly the weights it was given.

It tests for four causes of silently wrong scores, with the user's own prompts and with two long ones that differ only
at the end (many blocks of a prefix cache):

- stale weights: adopt A, then B, then A again. A must answer as before, and B differently from A;
- a stale cache: answers must not depend on whether the engine may use its prefix cache;
- a stale output head, for instance a packed copy of tied embeddings: answers must react to a change of the head alone;
- a stale part: if an engine keeps unchanged tensors, every other tensor of every other layer is changed, and the
  answers must be the same as when everything is sent.

For an engine that takes recipes, the first two are tested, and that the same recipe keeps its fingerprint. The canary
cannot know what B's answers should be: the swap tests compare them with a fresh engine's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from crossbreed.errors import EngineError, SwapError
from crossbreed.fitness.protocol import (
    Generate,
    Handle,
    Loglikelihood,
    Prompt,
    RecipeEngine,
    Request,
    Response,
    WeightEngine,
)
from crossbreed.sources.naming import layer_of, may_be_head
from crossbreed.types import Recipe, WeightStream

TOLERANCE = 1e-3
"""The largest difference that a swap may cause, in nats per token (law 9)."""
NOISE_FACTOR = 4
"""The tolerance for an engine whose rounding depends on a warm cache, as a multiple of that difference."""
_PREFIX_CHARACTERS = (2000, 1000, 500, 250)
_ADVICE = (
    "do not trust scores of this engine here: use `engine: {kind: transformers}`, and report architecture and version"
)
_SERVICE_ADVICE = "do not trust scores of this engine: report it, with engine and version, to its operator"
_STALE_CACHE = "the engine still uses the prefix cache of the old weights: answers with and without it differ"


def check_swap(
    engine: WeightEngine,
    recipe_a: Recipe,
    recipe_b: Recipe,
    make_stream: Callable[[Recipe], WeightStream],
    requests: Sequence[Request],
) -> None:
    """Swaps A -> B -> A, then mixtures of the two, sending the same tensors as a search would; compares the answers.

    Args:
        engine: the engine; adopts six times.
        recipe_a: any recipe.
        recipe_b: another one.
        make_stream: returns a new stream of a recipe's weights.
        requests: a few of the run's own.

    Raises:
        SwapError: the engine mixes up candidates; the message describes the symptom and a remedy.
    """
    digests_a, digests_b = (_digests(make_stream(recipe)) for recipe in (recipe_a, recipe_b))
    differing = frozenset(name for name in digests_a if digests_a[name] != digests_b[name])
    some = frozenset(name for name in sorted(differing)[::2] if (layer_of(name) or 0) % 2 == 0)
    heads = frozenset(filter(may_be_head, digests_a))

    def adopt(recipe: Recipe, weights: WeightStream, *, changing: frozenset[str]) -> tuple[Handle, bool]:
        """Returns the handle, and whether some tensor was kept."""
        kept = engine.keeps(digests_a.keys() - changing)
        came = ((name, tensor) for name, tensor in weights if name not in kept)
        return engine.adopt(recipe, came, kept=kept), bool(kept)

    def mixture() -> WeightStream:
        pairs = zip(make_stream(recipe_a), make_stream(recipe_b), strict=True)
        return ((name, of_b if name in some else of_a) for (name, of_a), (_, of_b) in pairs)

    handle = engine.adopt(recipe_a, make_stream(recipe_a))
    probes = [*requests, *_long_probes(handle, requests)]
    first = handle.answer(probes)
    limit = _limit(handle, probes)

    handle, _ = adopt(recipe_b, make_stream(recipe_b), changing=differing)
    second = handle.answer(probes)
    _require_alike(second, handle.answer(_without_cache(probes)), limit, f"after a swap {_STALE_CACHE}")
    if second == first and differing:
        raise SwapError(f"two different merges give the same answers: the engine keeps its old weights; {_ADVICE}")

    handle, _ = adopt(recipe_a, make_stream(recipe_a), changing=differing)
    _require_alike(first, handle.answer(probes), limit, "the same weights, adopted again, give different answers")

    scored = [_as_scored(probe) for probe in probes]
    handle, is_part = adopt(recipe_a, mixture(), changing=some)
    before = handle.answer(scored)
    if is_part:
        whole = engine.adopt(recipe_a, mixture()).answer(scored)
        _require_alike(before, whole, limit, "sending only the changed tensors gives other answers than sending all")

    handle, _ = adopt(recipe_a, _with_other_head(mixture()), changing=heads)
    if heads and handle.answer(scored) == before:  # in other architectures the head may have another name
        raise SwapError(f"a change of the output head does not affect the engine's answers; {_ADVICE}")


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
    handle = engine.adopt(recipe_a)
    probes = [*requests, *_long_probes(handle, requests)]
    first, vouched_a = handle.answer(probes), handle.fingerprint
    limit = _limit(handle, probes)

    handle = engine.adopt(recipe_b)
    second, vouched_b = handle.answer(probes), handle.fingerprint
    after_b = f"after another recipe {_STALE_CACHE}"
    _require_alike(second, handle.answer(_without_cache(probes)), limit, after_b, _SERVICE_ADVICE)
    if second == first and any(response.logprobs for response in first):  # texts alone may agree
        raise SwapError(f"two different recipes give the same answers; {_SERVICE_ADVICE}")
    if vouched_a is not None and vouched_b == vouched_a:
        raise SwapError(f"two different recipes have the same fingerprint, {vouched_a}; {_SERVICE_ADVICE}")

    handle = engine.adopt(recipe_a)
    again = "the same recipe, adopted again, gives different answers"
    _require_alike(first, handle.answer(probes), limit, again, _SERVICE_ADVICE)
    if handle.fingerprint != vouched_a:
        raise SwapError(
            f"the same recipe, adopted again, has fingerprint {handle.fingerprint} instead of {vouched_a}; "
            f"{_SERVICE_ADVICE}"
        )


def _limit(handle: Handle, probes: Sequence[Request]) -> float:
    """Returns the largest allowed distance between answers of the same weights."""
    noise = _distance(handle.answer(probes), handle.answer(_without_cache(probes)))
    return max(TOLERANCE, NOISE_FACTOR * noise)


def _require_alike(
    some: Sequence[Response], others: Sequence[Response], limit: float, problem: str, advice: str = _ADVICE
) -> None:
    if (gap := _distance(some, others)) > limit:
        raise SwapError(f"{problem}, by {gap:.3g} nats per token (at most {limit:.3g} expected); {advice}")


def _long_probes(handle: Handle, requests: Sequence[Request]) -> list[Request]:
    """Returns two prompts that share the longest prefix that the engine accepts, made of the run's own prompts."""
    text = "\n\n".join(request.prompt.text for request in requests) or "."
    for size in _PREFIX_CHARACTERS:
        prefix = (text * (size // len(text) + 1))[:size]
        probes: list[Request] = [Generate(prompt=Prompt(text=prefix + end), max_tokens=8) for end in (" A", " B")]
        try:
            handle.answer([_as_scored(probe) for probe in probes])
        except EngineError:
            continue
        return probes
    return []


def _without_cache(probes: Sequence[Request]) -> list[Request]:
    return [replace(probe, use_cache=False) if isinstance(probe, Generate) else probe for probe in probes]


def _as_scored(probe: Request) -> Request:
    return Loglikelihood(prompt=probe.prompt, continuation=" the answer") if isinstance(probe, Generate) else probe


def _distance(some: Sequence[Response], others: Sequence[Response]) -> float:
    """Returns the largest difference of log-probabilities, up to where the tokens of two answers diverge.

    At a near-tie two tokens may swap ranks; they are then about equally likely, and the distance is small.
    """
    gaps = [0.0]
    for one, other in zip(some, others, strict=True):
        for a, b, p, q in zip(one.token_ids, other.token_ids, one.logprobs, other.logprobs, strict=False):
            gaps.append(_gap(p, q))
            if a != b:
                break
    return max(gaps)


def _gap(p: float, q: float) -> float:
    """Returns the distance of two log-probabilities: infinite between NaN and a number, 0 between NaN and NaN."""
    if math.isnan(p) or math.isnan(q):
        return 0.0 if math.isnan(p) and math.isnan(q) else math.inf
    return 0.0 if p == q else abs(p - q)


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
