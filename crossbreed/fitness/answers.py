"""What an engine answers, checked before a task scores it: an engine is often somebody else's program."""

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import index
from typing import SupportsFloat

from crossbreed.errors import EngineError, InvalidWeights
from crossbreed.fitness.protocol import Generate, Handle, Loglikelihood, Request, Response
from crossbreed.fitness.values import is_unicode

LARGEST = 1e100
"""The largest value of an item, and of a log-probability without its sign: squares and sums of it are still numbers."""
_ROUNDING = 1e-3
"""The largest log-probability: a probability of 1, up to the rounding of floating-point numbers."""
_MOST_TOKENS = 2**31 - 1
"""The longest prompt, far longer than any model's."""


def answers_of(handle: Handle, requests: Sequence[Request], *, task: str) -> list[Response]:
    """Returns the responses of an engine to one chunk of a task's requests.

    Raises:
        EngineError: the engine could not answer, or its answers are not what the protocol says; the message names it.
        InvalidWeights: a log-probability is NaN or infinite: so were the logits.
    """
    where = f"task `{task}`, engine `{_name_of(handle)}`"
    responses = handle.answer(requests)
    if not isinstance(responses, Sequence):
        raise EngineError(f"{where}: expected a list of responses, got {_shown(responses)}")
    if len(responses) != len(requests):
        raise EngineError(f"{where}: {len(responses)} responses to {len(requests)} requests")
    for number, (request, response) in enumerate(zip(requests, responses, strict=True)):
        if wrong := _wrong_form(request, response):
            raise EngineError(f"{where}, response {number} of a chunk: {wrong}")
    logprobs = [_floats(response.logprobs) or () for response in responses]
    if not all(map(math.isfinite, chain(*logprobs))):
        raise InvalidWeights(f"task `{task}`: a log-probability is NaN or infinite")
    for number, found in enumerate(logprobs):
        if found and not (min(found) >= -LARGEST and max(found) <= _ROUNDING):
            raise EngineError(
                f"{where}, response {number} of a chunk: expected natural log-probabilities from -{LARGEST:g} to 0 in "
                f"`logprobs`, got {min(found):g} to {max(found):g}"
            )
    return list(responses)


def _wrong_form(request: Request, response: object) -> str:
    """Returns what is wrong with the types and lengths of a response; empty if nothing is."""
    if not isinstance(response, Response):
        return f"expected a Response, got {_shown(response)}"
    if not isinstance(response.text, str) or not is_unicode(response.text):
        return f"expected a Unicode text in `text`, got {_shown(response.text)}"
    if not _is_count(response.prompt_tokens):
        return f"expected a number of tokens, from 0 up, in `prompt_tokens`, got {_shown(response.prompt_tokens)}"
    for name, values in (("token_ids", response.token_ids), ("logprobs", response.logprobs)):
        if not (hasattr(values, "__len__") and hasattr(values, "__iter__")) or isinstance(values, str | bytes):
            return f"expected a tuple in `{name}`, got {_shown(values)}"
    num_ids, num_logprobs = len(response.token_ids), len(response.logprobs)
    if _floats(response.logprobs) is None:
        return f"expected numbers in `logprobs`, got {_shown(response.logprobs)}"
    if isinstance(request, Loglikelihood) and not num_ids == num_logprobs > 0:
        return (
            "expected the tokens of the continuation, at least one, in `token_ids`, and the log-probability of each in "
            f"`logprobs`, got {num_ids} tokens and {num_logprobs} log-probabilities"
        )
    if isinstance(request, Generate) and num_logprobs not in (0, num_ids):
        return (
            "expected the log-probability of each generated token in `logprobs`, or none at all, got "
            f"{num_ids} tokens and {num_logprobs} log-probabilities"
        )
    return ""


def _is_count(value: object) -> bool:
    """Returns whether a value is an integer of any type, NumPy's among them, that can be a number of tokens."""
    try:
        return 0 <= index(value) <= _MOST_TOKENS  # type: ignore[arg-type]
    except (TypeError, ValueError):  # ValueError: a tensor of several
        return False


def _floats(values: Iterable[object]) -> list[float] | None:
    """Returns numbers of any types as floats; None if one is no number."""
    try:
        return [value if type(value) is float else _float(value) for value in values]
    except (TypeError, ValueError, RuntimeError, OverflowError):  # a tensor of several, for example
        return None


def _float(value: object) -> float:
    if isinstance(value, SupportsFloat):
        return float(value)
    raise TypeError


def _name_of(handle: Handle) -> str:
    """Returns the name of the engine's class; a handle may hold its engine."""
    return type(getattr(handle, "engine", handle)).__qualname__


def _shown(value: object) -> str:
    return f"{value!r:.120} ({type(value).__name__})"
