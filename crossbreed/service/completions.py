"""`POST /v1/completions`: in OpenAI's words, and vLLM's for what those lack."""

import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from pydantic import BaseModel

from crossbreed.fitness import Prompt, Response
from crossbreed.service.accounts import Account
from crossbreed.service.chunks import PromptQuestion, Wanted, answered, check_count, check_length, prompt_of, tokens_of
from crossbreed.service.core import Service
from crossbreed.service.questions import CompletionQuestion
from crossbreed.service.refusals import bad_request
from crossbreed.service.texts import Texts, unnamed

_DEFAULT_TOKENS = 16


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @staticmethod
    def of(responses: Sequence[Response]) -> "Usage":
        """Returns the tokens of all responses."""
        prompt, completion = sum(r.prompt_tokens for r in responses), sum(len(r.token_ids) for r in responses)
        return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


class CompletionLogprobs(BaseModel):
    """Log-probabilities; those of the prompt's tokens first, where it is echoed. Nothing predicts the first token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """The answer to one prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str
    prompt_logprobs: list[dict[str, dict[str, Any]] | None] | None = None
    """For each token of the prompt: token id -> `logprob`, `rank` and `decoded_token`."""
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Completion(BaseModel):
    """The answers to one chunk."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


async def complete(service: Service, account: Account, question: CompletionQuestion) -> Completion:
    """Answers a chunk of prompts; raises Refusal."""
    account.require("answers")
    most = max(question.logprobs or 0, question.prompt_logprobs or 0)
    if question.logprobs is not None or question.prompt_logprobs is not None:
        account.require("logprobs")
    if most > service.config.alternatives:
        raise bad_request(f"at most {service.config.alternatives} alternatives are listed here, got {most}")
    scores_prompt = question.prompt_logprobs is not None or (question.echo and question.logprobs is not None)
    model = service.merges.find(question.model, owner=account.name)
    check_count(service, len(question.prompts))
    asked = await _asked(service, question)
    if not scores_prompt and not question.echo and any(not one.max_tokens for one in asked):
        raise bad_request("`max_tokens: 0` asks for nothing", param="max_tokens")
    wanted = Wanted(
        temperature=question.heat,
        seed=question.seed or 0,
        alternatives=max(most, int(question.prompt_logprobs is not None)),  # the first tells whether it is greedy
        scores_prompt=scores_prompt,
    )
    responses = await answered(service, account, model, asked, wanted)
    return await service.in_thread(_completion, service.texts, question, asked, responses)


async def _asked(service: Service, question: CompletionQuestion) -> list[PromptQuestion]:
    found, extension = list[PromptQuestion](), question.crossbreed
    given = _DEFAULT_TOKENS if question.max_tokens is None else question.max_tokens
    for index, raw in enumerate(question.prompts):
        prompt = await tokens_of(service, raw) if isinstance(raw, str) else prompt_of(service, raw)
        limits, stops = (extension.max_tokens, extension.stop) if extension else (None, None)
        max_tokens = given if limits is None else limits[index]
        check_length(service, prompt, max_tokens)
        stop = question.stops if stops is None else tuple(stops[index])
        found.append(PromptQuestion(prompt=prompt, max_tokens=max_tokens, stop=stop))
    return found


def _completion(
    texts: Texts | None, question: CompletionQuestion, asked: Sequence[PromptQuestion], responses: Sequence[Response]
) -> Completion:
    choices = [
        _choice(texts, question, index, one, response)
        for index, (one, response) in enumerate(zip(asked, responses, strict=True))
    ]
    return Completion(
        id=f"cmpl-{uuid4().hex}",
        created=int(time.time()),
        model=question.model,
        choices=choices,
        usage=Usage.of(responses),
    )


def _choice(
    texts: Texts | None, question: CompletionQuestion, index: int, asked: PromptQuestion, response: Response
) -> CompletionChoice:
    is_asked = asked.max_tokens > 0
    choice = CompletionChoice(
        index=index,
        text=(_prompt_text(texts, asked.prompt) if question.echo else "") + (response.text if is_asked else ""),
        finish_reason=response.ended if is_asked else "length",
    )
    if question.logprobs is not None:
        choice.logprobs = _logprobs(texts, question, response, is_asked=is_asked)
    if question.prompt_logprobs is not None:
        choice.prompt_logprobs = _prompt_logprobs(texts, response, question.prompt_logprobs)
    if question.return_token_ids:
        choice.token_ids = list(response.token_ids) if is_asked else []
        choice.prompt_token_ids = None if asked.prompt.token_ids is None else list(asked.prompt.token_ids)
    return choice


def _prompt_text(texts: Texts | None, prompt: Prompt) -> str:
    if prompt.token_ids is None:
        return prompt.text
    return texts.text(prompt.token_ids) if texts else ""


def _logprobs(
    texts: Texts | None, question: CompletionQuestion, response: Response, *, is_asked: bool
) -> CompletionLogprobs:
    ids, values = list[int](), list[float | None]()
    places = list[Mapping[int, float] | None]()
    if question.echo and response.prompt is not None:
        ids += response.prompt.token_ids
        values += [None, *response.prompt.logprobs]
        places += [None, *(response.prompt.alternatives or ({},) * len(response.prompt.logprobs))]
    if is_asked:
        ids += response.token_ids
        values += response.logprobs
        places += response.alternatives or ({},) * len(response.token_ids)
    texts = None if question.return_tokens_as_token_ids else texts
    words = [word(texts, token) for token in ids]
    offsets, end = list[int](), 0
    for text in words:
        offsets.append(end)
        end += len(text)
    listed = [
        _by_word(texts, place, (token, value), question.logprobs or 0)
        for place, token, value in zip(places, ids, values, strict=True)
    ]
    return CompletionLogprobs(
        tokens=words,
        token_logprobs=values,
        top_logprobs=listed if question.logprobs else None,
        text_offset=offsets,
    )


def _by_word(
    texts: Texts | None, place: Mapping[int, float] | None, chosen: tuple[int, float | None], count: int
) -> dict[str, float] | None:
    """Returns the most likely tokens, and the chosen one, as words; of two with one word, the likelier."""
    token, value = chosen
    if place is None or value is None:
        return None
    best = sorted(place.items(), key=lambda pair: -pair[1])[:count]
    found = dict[str, float]()
    for one, likely in [*best, (token, value)]:
        text = word(texts, one)
        found[text] = max(likely, found.get(text, likely))
    return found


def _prompt_logprobs(texts: Texts | None, response: Response, count: int) -> list[dict[str, dict[str, Any]] | None]:
    """Returns vLLM's form: the token itself, and the most likely ones; `rank` is None for one beyond those listed."""
    assert response.prompt is not None, "it was asked for"
    found: list[dict[str, dict[str, Any]] | None] = [None]
    prompt = response.prompt
    places = prompt.alternatives or ({},) * len(prompt.logprobs)
    for token, value, place in zip(prompt.token_ids[1:], prompt.logprobs, places, strict=True):
        ranked = sorted(place, key=lambda one: -place[one])
        ranks = {one: rank for rank, one in enumerate(ranked, 1)}
        listed = {token: value, **{one: place[one] for one in ranked[:count]}}
        found.append(
            {
                str(one): {"logprob": likely, "rank": ranks.get(one), "decoded_token": word(texts, one)}
                for one, likely in listed.items()
            }
        )
    return found


def word(texts: Texts | None, token: int) -> str:
    """Returns a token as text; without the tokenizer, its number."""
    return texts.word(token) if texts else unnamed(token)
