"""One chunk of requests as a body of `/v1/completions`, and the reading of what comes back, which is not believed.

Prompts are token ids, so that they are those that a local engine would get, and a chunk is one body, so that it is one
call of the engine behind the service.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from crossbreed.fitness.requests import Alternatives, Generate, Loglikelihood, Response, ScoredPrompt
from crossbreed.fitness.services.faults import WrongAnswer

_ROUNDING = 1e-3
"""The largest log-probability: a probability of 1, up to rounding."""
_TOKEN = "token_id:"
"""Before a token's number, where OpenAI's words have its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request in tokens."""

    request: Generate | Loglikelihood
    token_ids: tuple[int, ...]
    """Of the prompt and, for a Loglikelihood, the continuation."""
    num_prompt: int
    """How many of them are the prompt."""

    @property
    def max_tokens(self) -> int:
        """How many tokens are generated: at least one, even if nothing but the prompt is to be scored."""
        return self.request.max_tokens if isinstance(self.request, Generate) else 1

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end the text."""
        return self.request.stop if isinstance(self.request, Generate) else ()

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's tokens are scored."""
        return not isinstance(self.request, Generate) or self.request.scores_prompt

    @property
    def shared(self) -> tuple[float, int, int, bool]:
        """What all requests of one body have in common: temperature, seed, alternatives, use of the cache."""
        asked = self.request
        if isinstance(asked, Generate):
            return asked.temperature, asked.seed if asked.temperature else 0, asked.alternatives, asked.use_cache
        return 0.0, 0, 0, True

    @property
    def num_tokens(self) -> int:
        """Prompt and longest answer."""
        return len(self.token_ids) + self.max_tokens


def grouped(asked: Sequence[Asked]) -> list[list[int]]:
    """Returns the places of requests that can share a body; what only scores a prompt goes with any of them."""
    groups: dict[tuple[float, int, int, bool], list[int]] = {}
    scoring = list[int]()
    for place, one in enumerate(asked):
        if isinstance(one.request, Loglikelihood):
            scoring.append(place)
        else:
            groups.setdefault(one.shared, []).append(place)
    if scoring:
        first = next(iter(groups), (0.0, 0, 0, True))
        groups[first] = sorted([*groups.get(first, []), *scoring])
    return list(groups.values())


def body_of(asked: Sequence[Asked], *, with_logprobs: bool) -> dict[str, Any]:
    """Returns the body for requests of one group, but for the model's id.

    Args:
        asked: The requests.
        with_logprobs: Whether the service tells log-probabilities.
    """
    temperature, seed, alternatives, use_cache = next(
        (one.shared for one in asked if isinstance(one.request, Generate)), asked[0].shared
    )
    limits, stops = [one.max_tokens for one in asked], [list(one.stop) for one in asked]
    body: dict[str, Any] = {
        "prompt": [list(one.token_ids) for one in asked],
        "max_tokens": max(limits),
        "temperature": temperature,
        "return_token_ids": True,
    }
    if len(set(limits)) > 1 or any(stop != stops[0] for stop in stops):
        body["crossbreed"] = {"max_tokens": limits, "stop": stops}
    elif stops[0]:
        body["stop"] = stops[0]
    if temperature:
        body["seed"] = seed
    if with_logprobs:
        body["logprobs"] = alternatives
    if alternatives:
        body["return_tokens_as_token_ids"] = True
    if any(one.scores_prompt for one in asked):
        body["prompt_logprobs"] = alternatives
    if not use_cache:
        body["cache_salt"] = "anew"
    return body


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Scored(_Part):
    logprob: float


class _Logprobs(_Part):
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None = None


class _Choice(_Part):
    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    token_ids: list[Annotated[int, Field(ge=0)]]
    logprobs: _Logprobs | None = None
    prompt_token_ids: list[int]
    """An answer says what it answers: one that was kept for another request is known by it."""
    prompt_logprobs: list[dict[str, _Scored] | None] | None = None


class _Completion(_Part):
    model: str
    choices: list[_Choice]


def read_completion(value: Any, asked: Sequence[Asked], *, model: str, with_logprobs: bool) -> list[Response]:
    """Returns the responses in an answer, in the order of the requests.

    Args:
        value: The answer's JSON.
        asked: The requests of the body.
        model: The id that was asked.
        with_logprobs: Whether log-probabilities were asked for.

    Raises:
        WrongAnswer: it answers something else.
        ValidationError: it is no completion.
    """
    found = _Completion.model_validate(value)
    if found.model != model:
        raise WrongAnswer(f"`{found.model[:80]}` answered, not `{model}`")
    if [choice.index for choice in found.choices] != list(range(len(asked))):
        raise WrongAnswer(f"choices {[choice.index for choice in found.choices][:9]} to {len(asked)} prompts")
    return [
        _response(choice, one, with_logprobs=with_logprobs) for choice, one in zip(found.choices, asked, strict=True)
    ]


def _response(choice: _Choice, asked: Asked, *, with_logprobs: bool) -> Response:
    if tuple(choice.prompt_token_ids) != asked.token_ids:
        raise WrongAnswer("an answer to another prompt")
    if len(choice.token_ids) > asked.max_tokens or (choice.text and not choice.token_ids):
        raise WrongAnswer(f"{len(choice.token_ids)} tokens for a text of at most {asked.max_tokens}")
    request = asked.request
    alternatives = request.alternatives if isinstance(request, Generate) else 0
    scored = _scored_prompt(choice, asked, alternatives) if asked.scores_prompt else None
    if isinstance(request, Loglikelihood):
        assert scored is not None, "a continuation is scored"
        return Response(
            text="",
            token_ids=asked.token_ids[asked.num_prompt :],
            logprobs=scored.logprobs[asked.num_prompt - 1 :],
            prompt_tokens=asked.num_prompt,
        )
    logprobs, others = _generated(choice, alternatives) if with_logprobs else ((), ())
    return Response(
        text=choice.text,
        token_ids=tuple(choice.token_ids),
        logprobs=logprobs,
        prompt_tokens=asked.num_prompt,
        ended=choice.finish_reason,
        alternatives=others,
        prompt=scored,
    )


def _generated(choice: _Choice, alternatives: int) -> tuple[tuple[float, ...], Alternatives]:
    """Returns the log-probabilities of the generated tokens, and of the most likely ones at each place."""
    if choice.logprobs is None or len(choice.logprobs.token_logprobs) != len(choice.token_ids):
        raise WrongAnswer("not a log-probability for each token")
    found = tuple(map(_logprob, choice.logprobs.token_logprobs))
    if not alternatives:
        return found, ()
    tops = choice.logprobs.top_logprobs or []
    if len(tops) != len(found):
        raise WrongAnswer("not the most likely tokens of each place")
    return found, tuple(
        _most_likely({_id_of(token): logprob for token, logprob in top.items()}, alternatives) for top in tops
    )


def _scored_prompt(choice: _Choice, asked: Asked, alternatives: int) -> ScoredPrompt:
    places = choice.prompt_logprobs
    if places is None or len(places) != len(asked.token_ids) or places[0] is not None:
        raise WrongAnswer("not a log-probability for each token of the prompt but the first")
    tables = list(_tables(places[1:]))
    logprobs = list[float]()
    for token, table in zip(asked.token_ids[1:], tables, strict=True):
        if token not in table:
            raise WrongAnswer("log-probabilities of other tokens than the prompt's")
        logprobs.append(_logprob(table[token]))
    return ScoredPrompt(
        token_ids=asked.token_ids,
        logprobs=tuple(logprobs),
        alternatives=tuple(_most_likely(table, alternatives) for table in tables) if alternatives else (),
    )


def _tables(places: Sequence[Mapping[str, _Scored] | None]) -> Iterator[dict[int, float]]:
    for place in places:
        if not place:
            raise WrongAnswer("a token of the prompt has no log-probability")
        yield {_id_of(token): scored.logprob for token, scored in place.items()}


def _most_likely(table: Mapping[int, float], count: int) -> dict[int, float]:
    best = sorted(table.items(), key=lambda one: (-one[1], one[0]))[:count]
    return {token: _logprob(logprob) for token, logprob in best}


def _id_of(token: str) -> int:
    number = token.removeprefix(_TOKEN)
    if not (number.isascii() and number.isdecimal()):
        raise WrongAnswer(f"no token id: {token[:40]!r}")
    return int(number)


def _logprob(value: float) -> float:
    if not math.isfinite(value) or value > _ROUNDING:
        raise WrongAnswer(f"no log-probability: {value!r}")
    return value
