"""Asking the engine, with every number checked before it becomes JSON."""

import math
from collections.abc import Sequence
from itertools import chain

from crossbreed.errors import InvalidWeights
from crossbreed.fitness import Request, Response
from crossbreed.fitness.answers import likely_answers_of
from crossbreed.runs.workers.adopted import Adopted

_ASKER = "the merge's answers"


def finite_answers(adopted: Adopted, requests: Sequence[Request]) -> list[Response]:
    """Returns the responses to one chunk.

    Raises:
        EngineError: the engine could not answer, or not as the protocol says.
        InvalidWeights: a log-probability is NaN or infinite, be it of an answer, a prompt or an alternative.
    """
    responses = likely_answers_of(adopted.handle, requests, asker=_ASKER)
    for response in responses:
        scored = [response.alternatives]
        if response.prompt is not None:
            if not all(map(math.isfinite, response.prompt.logprobs)):
                raise InvalidWeights(f"{_ASKER}: a log-probability of a prompt is NaN or infinite")
            scored.append(response.prompt.alternatives)
        values = chain.from_iterable(place.values() for places in scored for place in places)
        if not all(map(math.isfinite, values)):
            raise InvalidWeights(f"{_ASKER}: a log-probability of an alternative is NaN or infinite")
    return responses
