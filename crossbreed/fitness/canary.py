"""Proves, before any score is believed, that an engine answers with the weights that it was given, and with no others.

Four ways to get silently wrong scores are looked for, with the user's own prompts and with two long ones that share
all but their end (many blocks of a prefix cache):

- weights that stay: A, then B, then A again. A must answer as before, and B otherwise than A;
- a cache that stays: prompts are answered alike whether the engine may use what it remembers of them or not;
- an output head that stays, as a packed copy of tied embeddings may: it must notice a change to itself alone;
- a part that should not have stayed: where an engine keeps what did not change, every other tensor of every other
  layer changes, and the answers must be the same as when everything is sent.

What the canary cannot know is what B's answers should be. The swap tests compare with a fresh engine.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from crossbreed.errors import EngineError, SwapError
from crossbreed.fitness.protocol import Engine, Generate, Handle, Loglikelihood, Prompt, Request, Response
from crossbreed.sources.structure import layer_of
from crossbreed.types import Recipe, WeightStream

TOLERANCE = 1e-3
"""In nats a token: a swap may cost no more (law 9)."""
NOISE_FACTOR = 4
"""An engine that rounds otherwise with a warm cache than with a cold one is allowed this multiple of it."""
_PREFIX_CHARACTERS = (2000, 1000, 500, 250)
_HEADS = ("lm_head.weight", "embed_tokens.weight", "wte.weight", "embed_out.weight")
_ADVICE = (
    "do not trust scores of this engine here: use `engine: {kind: transformers}`, and report architecture and version"
)


def check_swap(
    engine: Engine,
    recipe_a: Recipe,
    recipe_b: Recipe,
    make_stream: Callable[[Recipe], WeightStream],
    requests: Sequence[Request],
) -> None:
    """Swaps A -> B -> A and on to mixtures of the two, sending what a search would send, and compares the answers.

    Args:
        engine: adopts six times.
        recipe_a: any recipe.
        recipe_b: another one.
        make_stream: the weights of a recipe, anew at each call.
        requests: a few of the run's own.

    Raises:
        SwapError: the engine mixes up candidates; the message says what was seen and what to do.
    """
    digests_a, digests_b = (_digests(make_stream(recipe)) for recipe in (recipe_a, recipe_b))
    differing = frozenset(name for name in digests_a if digests_a[name] != digests_b[name])
    some = frozenset(name for name in sorted(differing)[::2] if (layer_of(name) or 0) % 2 == 0)
    heads = frozenset(name for name in digests_a if name.endswith(_HEADS))

    def adopt(recipe: Recipe, weights: WeightStream, *, changing: frozenset[str]) -> tuple[Handle, bool]:
        """Also tells whether something was kept."""
        kept = engine.keeps(digests_a.keys() - changing)
        came = ((name, tensor) for name, tensor in weights if name not in kept)
        return engine.adopt(recipe, came, kept=kept), bool(kept)

    def mixture() -> WeightStream:
        pairs = zip(make_stream(recipe_a), make_stream(recipe_b), strict=True)
        return ((name, of_b if name in some else of_a) for (name, of_a), (_, of_b) in pairs)

    handle = engine.adopt(recipe_a, make_stream(recipe_a))
    probes = [*requests, *_long_probes(handle, requests)]
    first = handle.answer(probes)
    noise = _distance(handle.answer(probes), handle.answer(_without_cache(probes)))
    limit = max(TOLERANCE, NOISE_FACTOR * noise)

    handle, _ = adopt(recipe_b, make_stream(recipe_b), changing=differing)
    second = handle.answer(probes)
    _require_alike(
        second,
        handle.answer(_without_cache(probes)),
        limit,
        "after a swap the engine still uses the prefix cache of the old weights: with and without it, answers differ",
    )
    if second == first and differing:
        raise SwapError(f"two different merges got the same answers: the engine keeps its old weights; {_ADVICE}")

    handle, _ = adopt(recipe_a, make_stream(recipe_a), changing=differing)
    _require_alike(first, handle.answer(probes), limit, "the same weights, adopted again, answer otherwise")

    scored = [_as_scored(probe) for probe in probes]
    handle, is_part = adopt(recipe_a, mixture(), changing=some)
    before = handle.answer(scored)
    if is_part:
        whole = engine.adopt(recipe_a, mixture()).answer(scored)
        _require_alike(before, whole, limit, "sent what changed alone, the engine answers otherwise than sent all")

    handle, _ = adopt(recipe_a, _with_other_head(mixture()), changing=heads)
    if handle.answer(scored) == before:
        raise SwapError(f"the engine does not notice that the output head has changed; {_ADVICE}")


def _require_alike(some: Sequence[Response], others: Sequence[Response], limit: float, problem: str) -> None:
    if (gap := _distance(some, others)) > limit:
        raise SwapError(f"{problem}, by {gap:.3g} nats a token (at most {limit:.3g} expected); {_ADVICE}")


def _long_probes(handle: Handle, requests: Sequence[Request]) -> list[Request]:
    """Two prompts that share the longest prefix that the engine takes, made of the run's own prompts."""
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
    """The largest difference of log-probabilities, up to where the tokens of two answers part.

    At a near-tie two tokens may change places; then they are about as likely, and the distance is small.
    """
    gaps = [0.0]
    for one, other in zip(some, others, strict=True):
        for a, b, p, q in zip(one.token_ids, other.token_ids, one.logprobs, other.logprobs, strict=False):
            gaps.append(_gap(p, q))
            if a != b:
                break
    return max(gaps)


def _gap(p: float, q: float) -> float:
    """NaN is as far as can be from any number, and from itself it is not."""
    if math.isnan(p) or math.isnan(q):
        return 0.0 if math.isnan(p) and math.isnan(q) else math.inf
    return 0.0 if p == q else abs(p - q)


def _with_other_head(weights: WeightStream) -> WeightStream:
    """Changes the last rows of head and embedding (rare or unused tokens) so that one of them gets likely."""
    for name, tensor in weights:
        if name.endswith(_HEADS):
            tensor = tensor.clone()
            row = 10 * tensor.float().mean(0).sign() * tensor.float().abs().max()
            tensor[-8:-4], tensor[-4:] = row, -row
        yield name, tensor


def _digests(weights: WeightStream) -> dict[str, str]:
    from crossbreed.sources.hashes import digest_of  # needs torch

    return {name: digest_of(tensor) for name, tensor in weights}
