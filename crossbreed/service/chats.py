"""`POST /v1/chat/completions`, and `POST /tokenize` for those who render chats themselves."""

import time
from collections.abc import Sequence
from typing import Literal
from uuid import uuid4

from pydantic import BaseModel

from crossbreed.errors import InputError
from crossbreed.fitness import Prompt, Response, wire
from crossbreed.service.accounts import Account
from crossbreed.service.chunks import PromptQuestion, Wanted, answered, check_length, prompt_of
from crossbreed.service.completions import Usage, word
from crossbreed.service.core import Service
from crossbreed.service.questions import ChatMessage, ChatQuestion
from crossbreed.service.refusals import Refusal, bad_request, told
from crossbreed.service.texts import Texts, unnamed

_DEFAULT_TOKENS = 512


class Likely(BaseModel):
    """A token with its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatToken(Likely):
    """A token of the answer."""

    top_logprobs: list[Likely]


class ChatLogprobs(BaseModel):
    """Of each token of the answer."""

    content: list[ChatToken]
    refusal: None = None


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """The one answer."""

    index: int = 0
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(BaseModel):
    """The answer to a conversation."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


async def chat(service: Service, account: Account, question: ChatQuestion) -> ChatCompletion:
    """Answers a conversation; raises Refusal."""
    account.require("answers")
    if question.logprobs or question.top_logprobs:
        account.require("logprobs")
    if question.top_logprobs and not question.logprobs:
        raise bad_request("`top_logprobs` needs `logprobs: true`", param="top_logprobs")
    count = question.top_logprobs or 0
    if count > service.config.alternatives:
        raise bad_request(f"at most {service.config.alternatives} alternatives are listed here, got {count}")
    model = service.merges.find(question.model, owner=account.name)
    prompt = await _prompt(service, question.messages)
    given = question.max_completion_tokens or question.max_tokens
    room = service.texts.max_model_len - len(prompt.token_ids or ()) if service.texts else _DEFAULT_TOKENS
    max_tokens = given or max(1, min(_DEFAULT_TOKENS, room, service.config.max_tokens))
    check_length(service, prompt, max_tokens)
    asked = [PromptQuestion(prompt=prompt, max_tokens=max_tokens, stop=question.stops)]
    wanted = Wanted(temperature=question.heat, seed=question.seed or 0, alternatives=count, scores_prompt=False)
    responses = await answered(service, account, model, asked, wanted)
    return await service.in_thread(_completion, service.texts, question, responses)


async def tokenize(service: Service, question: wire.TokenizeQuestion) -> wire.Tokens:
    """Returns the tokens of a prompt or of a conversation; raises Refusal."""
    if service.texts is None:
        raise Refusal(404, "this service's engine has no tokenizer to offer", code="not_offered")
    if (question.prompt is None) == (question.messages is None):
        raise bad_request("either `prompt` or `messages` is needed")
    if question.messages is None:
        assert question.prompt is not None
        ids = await service.in_thread(_plain, service.texts, question.prompt, question.add_special_tokens)
    elif question.add_generation_prompt:
        messages = [dict(message) for message in question.messages]
        if any(message.keys() != {"role", "content"} for message in messages) or not messages:
            raise bad_request("a message has `role` and `content`", param="messages")
        ids = await service.in_thread(_rendered, service.texts, messages, question.continuation)
    else:
        raise bad_request("`add_generation_prompt: false` is not offered", param="add_generation_prompt")
    return wire.Tokens(tokens=ids, count=len(ids), max_model_len=service.texts.max_model_len)


async def _prompt(service: Service, messages: Sequence[ChatMessage]) -> Prompt:
    turns = [{"role": "system" if m.role == "developer" else m.role, "content": m.text} for m in messages]
    if messages[-1].role != "user":
        raise bad_request("the last message must be the user's", param="messages")
    if service.texts is not None:
        return prompt_of(service, await service.in_thread(_rendered, service.texts, turns, ""))
    system = turns[0]["content"] if turns[0]["role"] == "system" else None
    between = turns[int(system is not None) : -1]
    return Prompt(
        text=turns[-1]["content"],
        chat=True,
        system=system,
        turns=tuple((turn["role"], turn["content"]) for turn in between),
    )


def _plain(texts: Texts, text: str, special: bool) -> tuple[int, ...]:
    return texts.tokens(text, special=special)


def _rendered(texts: Texts, messages: Sequence[dict[str, str]], continuation: str) -> tuple[int, ...]:
    try:
        return texts.chat_tokens(messages, continuation=continuation)
    except InputError as error:
        raise bad_request(told(error), param="messages") from None


def _completion(texts: Texts | None, question: ChatQuestion, responses: Sequence[Response]) -> ChatCompletion:
    [response] = responses
    choice = ChatChoice(
        message=AssistantMessage(content=response.text),
        logprobs=_logprobs(texts, response, question.top_logprobs or 0) if question.logprobs else None,
        finish_reason=response.ended,
    )
    return ChatCompletion(
        id=f"chatcmpl-{uuid4().hex}",
        created=int(time.time()),
        model=question.model,
        choices=[choice],
        usage=Usage.of(responses),
    )


def _logprobs(texts: Texts | None, response: Response, count: int) -> ChatLogprobs:
    places = response.alternatives or ({},) * len(response.token_ids)
    return ChatLogprobs(
        content=[
            ChatToken(
                **_likely(texts, token, value).model_dump(),
                top_logprobs=[
                    _likely(texts, *pair) for pair in sorted(place.items(), key=lambda pair: -pair[1])[:count]
                ],
            )
            for token, value, place in zip(response.token_ids, response.logprobs, places, strict=True)
        ]
    )


def _likely(texts: Texts | None, token: int, value: float) -> Likely:
    text = word(texts, token)
    return Likely(token=text, logprob=value, bytes=None if text == unnamed(token) else list(text.encode()))
