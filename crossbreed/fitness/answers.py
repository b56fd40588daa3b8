"""What an engine answers, checked before a task scores it: an engine is often somebody else's program."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from operator import index
from typing import SupportsFloat, SupportsIndex, TypeGuard

from crossbreed.errors import EngineError, InvalidWeights
from crossbreed.fitness.protocol import Handle
from crossbreed.fitness.requests import Generate, Loglikelihood, Request, Response
from crossbreed.fitness.values import is_unicode

LARGEST = 1e100
"""The largest value of an item, and of a log-probability without its sign: squares and sums of it are still numbers."""
ROUNDING = 1e-3
"""The largest log-probability: a probability of 1, up to the rounding of floating-point numbers."""
_MOST_TOKENS = 2**31 - 1
"""The longest prompt, far longer than any model's."""


def answers_of(handle: Handle, requests: Sequence[Request], *, asker: str) -> list[Response]:
    """Returns the responses of an engine to one chunk of requests, in plain Python: tuples of integers and floats.

    Log-probabilities may be any numbers, NaN among them.

    Args:
        handle: the engine's candidate.
        requests: the chunk.
        asker: who asks, for messages: a task, for example.

    Raises:
        EngineError: the engine could not answer, or its answers are not what the protocol says; the message names it.
    """
    where = _place(handle, asker)
    responses = handle.answer(requests)
    if not isinstance(responses, Sequence):
        raise EngineError(f"{where}: expected a list of responses, got {_shown(responses)}")
    if len(responses) != len(requests):
        raise EngineError(f"{where}: {len(responses)} responses to {len(requests)} requests")
    for number, (request, response) in enumerate(zip(requests, responses, strict=True)):
        if wrong := _wrong_form(request, response):
            raise EngineError(f"{where}, response {number} of a chunk: {wrong}")
    return list(map(_plain, responses))


def likely_answers_of(handle: Handle, requests: Sequence[Request], *, asker: str) -> list[Response]:
    """Returns the responses whose log-probabilities are such; see `answers_of`.

    Raises:
        EngineError: also if a log-probability is none.
        InvalidWeights: one is NaN or infinite: so were the logits.
    """
    responses = answers_of(handle, requests, asker=asker)
    if not all(map(math.isfinite, chain.from_iterable(response.logprobs for response in responses))):
        raise InvalidWeights(f"{asker}: a log-probability is NaN or infinite")
    for number, response in enumerate(responses):
        least, most = min(response.logprobs, default=0.0), max(response.logprobs, default=0.0)
        if least < -LARGEST or most > ROUNDING:
            raise EngineError(
                f"{_place(handle, asker)}, response {number} of a chunk: expected natural log-probabilities from "
                f"-{LARGEST:g} to 0 in `logprobs`, got {least:g} to {most:g}"
            )
    return responses


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
    if not all(map(_is_integer, response.token_ids)):
        return f"expected integers in `token_ids`, got {_shown(response.token_ids)}"
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


def _plain(response: Response) -> Response:
    """Returns the same response with Python's own types, in which two can be compared."""
    logprobs = tuple(_floats(response.logprobs) or ())
    prompt_tokens, token_ids = index(response.prompt_tokens), tuple(map(index, response.token_ids))
    return replace(response, token_ids=token_ids, logprobs=logprobs, prompt_tokens=prompt_tokens)


def _is_count(value: object) -> bool:
    """Returns whether a value is an integer that can be a number of tokens."""
    return _is_integer(value) and 0 <= index(value) <= _MOST_TOKENS


def _is_integer(value: object) -> TypeGuard[SupportsIndex]:
    """Returns whether a value is an integer of any type, NumPy's among them."""
    try:
        index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # a tensor of several, for example
        return False
    return True


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


def _place(handle: Handle, asker: str) -> str:
    """Returns who asks, and the name of the engine's class; a handle may hold its engine."""
    return f"{asker}, engine `{type(getattr(handle, 'engine', handle)).__qualname__}`"


def _shown(value: object) -> str:
    return f"{value!r:.120} ({type(value).__name__})"
