"""The requests that the canary asks, made of the run's own, and the distances between answers."""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

from crossbreed.errors import EngineError, InputError, SwapError
from crossbreed.fitness.answers import answers_of
from crossbreed.fitness.protocol import Handle, Logprobs
from crossbreed.fitness.requests import Generate, Loglikelihood, Prompt, Request, Response

R = TypeVar("R", Request, Loglikelihood)

TOLERANCE = 1e-3
"""The largest difference, in nats per token, between an engine after a swap and one started on the same weights."""
NOISE_FACTOR = 4
"""The tolerance for an engine whose rounding depends on its prefix cache, as a multiple of that difference."""
MAX_NOISE, MAX_MEAN_NOISE = 0.5, 0.1
"""The largest such difference of a token, and of all on average, that rounding can explain: more is the cache's fault.

SmolLM2-135M in bfloat16, its prompts computed in two parts: at most 0.15 nats, on average 0.02.
"""
_MAX_TOKENS = 4
"""The length of answers that are compared; more would take longer and show no more."""
_PREFIX_CHARACTERS = (600, 250, 120, 60, 30)
_TEXT_CHARACTERS = (600, 350, 200, 100, 50, 25, 12)
_CONTINUATIONS = (" the answer", " a", "a")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Requests that generate nothing, and the answers that they got when they were tried."""

    requests: Sequence[Request]
    texts: Sequence[Loglikelihood]
    """Those among them, the last ones, of which every token is scored."""
    answers: Sequence[Response]


def ask(handle: Handle, requests: Sequence[Request]) -> list[Response]:
    """Returns the responses to the canary's requests; see `answers_of`."""
    return answers_of(handle, requests, asker="the canary")


def probes_of(handle: Handle, requests: Sequence[Request]) -> list[Request]:
    """Returns the requests, with answers of limited length, and two prompts that share the longest accepted prefix."""
    own = [replace(r, max_tokens=min(r.max_tokens, _MAX_TOKENS)) if isinstance(r, Generate) else r for r in requests]
    prefixes = _prefixes(requests, _PREFIX_CHARACTERS)
    return [*own, *_first_accepted(handle, map(_with_two_ends, prefixes))[0]]


def scored(handle: Handle, requests: Sequence[Request]) -> Scored:
    """Returns the requests, those that generate with a continuation to score instead, and the longest accepted text."""
    texts = [Loglikelihood(prompt=Prompt(text=""), continuation=text) for text in _prefixes(requests, _TEXT_CHARACTERS)]
    found = [_as_scored(request, _CONTINUATIONS[0]) for request in requests]
    accepted, answers = _first_accepted(handle, [[*found, texts[0]]])
    if accepted:
        return Scored(requests=accepted, texts=texts[:1], answers=answers)
    tries = ([[_as_scored(request, end)] for end in _CONTINUATIONS] for request in requests)
    found = [request for one in tries for request in _first_accepted(handle, one)[0]]  # those that fit, one by one
    accepted_texts, of_texts = _first_accepted(handle, ([text] for text in texts))
    answers = [*(ask(handle, found) if found else []), *of_texts]
    return Scored(requests=[*found, *accepted_texts], texts=accepted_texts, answers=answers)


def without_cache(probes: Sequence[Request]) -> list[Request]:
    """Returns the probes with prompts that are computed anew."""
    return [replace(probe, use_cache=False) if isinstance(probe, Generate) else probe for probe in probes]


def limit_of(handle: Handle, probes: Sequence[Request], answers: Sequence[Response], *, advice: str) -> float:
    """Returns the largest allowed distance between answers of the same weights.

    Raises:
        SwapError: answers with and without the prefix cache differ by more than rounding does.
    """
    gaps = list(_gaps(answers, ask(handle, without_cache(probes))))
    noise, mean = max(gaps, default=0.0), math.fsum(gaps) / max(1, len(gaps))
    if noise > MAX_NOISE or mean > MAX_MEAN_NOISE:
        raise SwapError(
            f"the engine's prefix cache changes its answers by up to {noise:.3g} nats per token, "
            f"by {mean:.3g} on average (rounding: at most {MAX_NOISE} and {MAX_MEAN_NOISE}); {advice}"
        )
    return max(TOLERANCE, NOISE_FACTOR * noise)


def distance(some: Sequence[Response], others: Sequence[Response]) -> float:
    """Returns the largest difference of log-probabilities, up to where the tokens of two answers diverge.

    At a near-tie two tokens may swap ranks; they are then about equally likely, and the distance is small.
    """
    return max(_gaps(some, others), default=0.0)


def _gaps(some: Sequence[Response], others: Sequence[Response]) -> Iterator[float]:
    for one, other in zip(some, others, strict=True):
        for a, b, p, q in zip(one.token_ids, other.token_ids, one.logprobs, other.logprobs, strict=False):
            yield _gap(p, q)
            if a != b:
                break


def _gap(p: float, q: float) -> float:
    """Returns the distance of two log-probabilities: infinite between NaN and a number, 0 between NaN and NaN."""
    if math.isnan(p) or math.isnan(q):
        return 0.0 if math.isnan(p) and math.isnan(q) else math.inf
    return 0.0 if p == q else abs(p - q)


def mean_gap(some: Logprobs, others: Logprobs) -> float:
    """Returns the mean distance of log-probabilities; infinite where one is NaN, or the tokens are not as many."""
    if [len(one) for one in some] != [len(other) for other in others]:
        return math.inf
    gaps = [_gap(p, q) for p, q in zip(chain(*some), chain(*others), strict=True)]
    return math.fsum(gaps) / max(1, len(gaps))


def median_gap(some: Logprobs, others: Logprobs) -> float:
    """Returns the median distance of log-probabilities; infinite where the tokens are not as many."""
    if [len(one) for one in some] != [len(other) for other in others]:
        return math.inf
    return statistics.median([_gap(p, q) for p, q in zip(chain(*some), chain(*others), strict=True)] or [0.0])


def can_move(answers: Sequence[Response]) -> bool:
    """Returns whether some log-probability is a number other than 0: otherwise one logit outweighs whatever changes."""
    return any(math.isfinite(p) and p != 0 for answer in answers for p in answer.logprobs)


def _as_scored(probe: Request, end: str) -> Request:
    """Returns a request that scores; the boundary of a prompt in tokens is found in its text."""
    if not isinstance(probe, Generate):
        return probe
    return Loglikelihood(prompt=replace(probe.prompt, token_ids=None), continuation=end)


def _with_two_ends(prefix: str) -> list[Request]:
    return [Generate(prompt=Prompt(text=prefix + end), max_tokens=_MAX_TOKENS) for end in (" A", " B")]


def _prefixes(requests: Sequence[Request], sizes: Sequence[int]) -> Iterator[str]:
    texts = (r.prompt.text + (r.continuation if isinstance(r, Loglikelihood) else "") for r in requests)
    text = "\n\n".join(filter(str.strip, texts)) or "The quick brown fox jumps over the lazy dog."
    return ((text * (size // len(text) + 1))[:size] for size in sizes)


def _first_accepted(handle: Handle, tries: Iterable[list[R]]) -> tuple[list[R], list[Response]]:
    """Returns the first requests that the engine answers, and the answers: they are used as they were tried."""
    for requests in tries:
        try:
            return requests, ask(handle, requests)
        except (EngineError, InputError):
            continue
    return [], []
