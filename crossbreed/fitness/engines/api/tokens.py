"""Tokenization by the service, once for each text: the run keeps what it was told."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossbreed.errors import InputError
from crossbreed.fitness import wire
from crossbreed.fitness.engines.api.completions import Asked
from crossbreed.fitness.engines.boundary import num_prompt_tokens
from crossbreed.fitness.requests import Generate, Loglikelihood, Prompt
from crossbreed.fitness.services.appending import append_line, key_of, read_lines
from crossbreed.fitness.services.faults import WrongAnswer
from crossbreed.fitness.services.transport import Transport


class Tokens:
    """Text -> token ids, as the service says."""

    def __init__(self, transport: Transport, *, path: str = "/v1/tokenize") -> None:
        """Knows nothing yet.

        Args:
            transport: Asks the service.
            path: Where it tokenizes; on vLLM's own server `/tokenize`.
        """
        self._transport, self._path = transport, path
        self._known: dict[str, tuple[int, ...]] = {}
        self._file: Path | None = None

    def keep_in(self, file: Path) -> None:
        """Reads what a file holds of earlier, and writes what is new to it."""
        self._file = file
        for line in read_lines(file):
            key, ids = line.get("key"), line.get("ids")
            if isinstance(key, str) and isinstance(ids, list) and all(type(one) is int and one >= 0 for one in ids):
                self._known.setdefault(key, tuple(ids))

    def encode(self, requests: Sequence[Generate | Loglikelihood]) -> list[Asked]:
        """Returns requests in tokens, as `Encoder.encode` has them for local engines.

        The continuation's are those of the whole text after what it shares with the prompt alone.

        Raises:
            InputError: a continuation without a token to score, or what the service refuses.
            EngineError: the service could not be asked; see `Transport.post`.
        """
        texts = [_questions(request) for request in requests]
        self._learn([question for of_one in texts for question in of_one])
        return [self._encoded(request, questions) for request, questions in zip(requests, texts, strict=True)]

    def _learn(self, questions: Sequence[Mapping[str, Any]]) -> None:
        new = {key: question for question in questions if (key := key_of(question)) not in self._known}
        found = self._transport.post_all(self._path, list(new.values()), _read)
        for key, ids in zip(new, found, strict=True):
            self._known[key] = ids
            if self._file is not None:
                append_line(self._file, {"key": key, "ids": list(ids)})

    def _encoded(self, request: Generate | Loglikelihood, questions: Sequence[Mapping[str, Any]]) -> Asked:
        if request.prompt.token_ids is not None:
            ids = request.prompt.token_ids
            more = () if isinstance(request, Generate) else request.token_ids or ()
            return Asked(request=request, token_ids=(*ids, *more), num_prompt=len(ids))
        first, last = self._known[key_of(questions[0])], self._known[key_of(questions[-1])]
        if isinstance(request, Generate):
            if not first:
                raise InputError("a prompt has no token", expected="a text", got=repr(request.prompt.text)[:80])
            return Asked(request=request, token_ids=first, num_prompt=len(first))
        num_prompt = num_prompt_tokens(first, last, continuation=request.continuation)
        return Asked(request=request, token_ids=last, num_prompt=num_prompt)


def _questions(request: Generate | Loglikelihood) -> list[dict[str, Any]]:
    """Returns the bodies to tokenize: of the prompt and, for a continuation, of both together."""
    prompt = request.prompt
    if prompt.token_ids is not None:
        return []
    alone = _body(prompt, "")
    return [alone] if isinstance(request, Generate) else [alone, _body(prompt, request.continuation)]


def _body(prompt: Prompt, continuation: str) -> dict[str, Any]:
    if not prompt.chat:
        return {"prompt": prompt.text + continuation}
    return {"messages": prompt.messages, **({"continuation": continuation} if continuation else {})}


def _read(value: Any) -> tuple[int, ...]:  # JSON
    found = wire.Tokens.model_validate_json(json.dumps(value), strict=True)
    if found.count != len(found.tokens) or any(token < 0 for token in found.tokens):
        raise WrongAnswer(f"{len(found.tokens)} tokens where {found.count} are counted")
    return found.tokens
