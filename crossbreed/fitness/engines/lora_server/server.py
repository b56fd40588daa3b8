"""One stock vLLM server: what it serves, adapters by name, and chunks of completions.

Learnt of vLLM 0.32: NaN logits come back as HTTP 400, "Out of range float values", where log-probabilities are asked
for, and as an empty text where they are not, so they always are. After NaN the KV cache may stay spoilt, and then the
base gives the same 400. A request without a model is answered by the base, so the model that answered is always
compared. Cached prefixes are told apart by an adapter's name and path alone, so names are never used again. With
adapters enabled, its code for CPU takes a prompt's scored tokens for as many requests: the engine dies where it scores
a prompt beside another request.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

import httpx2
from pydantic import BaseModel, ConfigDict

from crossbreed.errors import InputError, InvalidWeights, ServiceOutage
from crossbreed.fitness.engines.api.completions import Asked, body_of, read_completion
from crossbreed.fitness.requests import Generate, Prompt, Response
from crossbreed.fitness.services.faults import ModelForgotten, ServiceError, WrongAnswer
from crossbreed.fitness.services.settings import ServiceSettings
from crossbreed.fitness.services.transport import Transport

_NAN = "out of range float values"
_PLAIN = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0}
"""Sampling that the server would else take from the base's generation_config.json."""
_START = "python -m vllm.entrypoints.launchers.api_server.entry --model BASE --enable-lora --max-lora-rank RANK"


FIRST = Asked(
    request=Generate(prompt=Prompt(token_ids=(0,), text=""), max_tokens=1, use_cache=False),
    token_ids=(0,),
    num_prompt=1,
)
"""What is asked to see whether answers are numbers at all."""
_KNOWN = Asked(
    request=Generate(prompt=Prompt(token_ids=tuple(range(16)), text=""), max_tokens=1, use_cache=False),
    token_ids=tuple(range(16)),
    num_prompt=16,
)
"""What the base is asked before each candidate: it must say what it said at first."""
_SAME = {"float32": 0.01}
"""How far the log-probability of the likeliest token may be off, in nats: requests beside it change the rounding."""
_SAME_ELSE = 0.25
"""In other dtypes."""


class AlreadyLoaded(Exception):
    """The server has an adapter of this name: an answer to the first request for it was lost."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Card(_Part):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Cards(_Part):
    data: list[_Card]


class _Vllm(Transport):
    """A transport that knows what vLLM's server means."""

    def decoded(self, response: httpx2.Response) -> Any:  # JSON, or the text that vLLM answers about adapters
        """Returns what an answer holds."""
        is_json = "json" in response.headers.get("content-type", "")
        return super().decoded(response) if is_json else response.text

    def refusal(self, error: ServiceError) -> Exception | None:
        """See Transport."""
        said = error.message.lower()
        if error.status == 400 and _NAN in said:
            return InvalidWeights(f"the answers of {self.settings.url} are NaN or infinite")
        if error.status == 400 and "already" in said and "lora" in said:
            return AlreadyLoaded(error.message)
        if "max_lora_rank" in said:
            return self._wrong(error, "set `max_rank` to the server's --max-lora-rank")
        if error.status == 500 and "enginecore" in said:
            return ServiceOutage(
                f"the engine of {self.settings.url} has died: {error.message}\n"
                "Restart it, and the same command goes on from here; if it computes on CPU, begin a run with "
                "`fitness.engine.scores_together: false`"
            )
        if "target modules" in said:
            return self._wrong(error, "leave the tensors of these modules as the base has them: no rule on them")
        if error.status == 404 and ("does not exist" in said or "cannot be found" in said):
            return ModelForgotten(f"{self.settings.url} does not know the model: {error.message}")
        if error.status == 404 and "adapter" in said:
            return self._wrong(error, "set `folder` and `server_folder` so that the server can read what is written")
        if error.status == 404 and not said.strip(". ").replace("not found", ""):
            return self._wrong(error, f"start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True: {_START}")
        return super().refusal(error)

    def _wrong(self, error: ServiceError, fix: str) -> InputError:
        return InputError(
            "the server cannot load adapters of this run",
            expected="a vLLM server that loads adapters at run time, large enough, from a folder that it can read",
            got=f"HTTP {error.status} {error.message}".rstrip() + f" from {self.settings.url}",
            where="fitness.engine",
            fix=fix,
        )


class Server:
    """A connection to one server. Used by one thread at a time."""

    def __init__(self, settings: ServiceSettings, *, scores_together: bool, dtype: str) -> None:
        """Asks what it serves.

        Args:
            settings: How to reach it.
            scores_together: Whether it may score several prompts at a time.
            dtype: In which it computes.

        Raises:
            InputError: it is no vLLM server of a model, or refuses the key.
            ServiceOutage: it does not answer.
        """
        self.url, self._scores_together = settings.url, scores_together
        self.poisoned = ""
        """Why it is not used again; empty while it may be."""
        self.is_away = False
        """Whether it was waited for in vain."""
        self._said: float | None = None
        """What the base said to `_KNOWN`."""
        self._same = _SAME.get(dtype, _SAME_ELSE)
        self.transport = _Vllm(settings)
        base = next((card for card in self._cards() if card.parent is None), None)
        if base is None:
            raise InputError("the server serves no model", expected="the base", where=f"{self.url}/v1/models")
        self.model, self.max_model_len = base.id, base.max_model_len
        self._salt = f"crossbreed-{uuid4().hex}"

    def load(self, name: str, path: str) -> None:
        """Loads an adapter.

        Args:
            name: One that no adapter ever had here.
            path: Its folder, as the server calls it.

        Raises:
            InputError: the server cannot, or cannot read it.
            EngineError: it did not.
        """
        with suppress(AlreadyLoaded):
            self.transport.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}, _read_text)
        listed = {card.id: card for card in self._cards()}
        if name not in listed or listed[name].root != path:
            raise ModelForgotten(f"{self.url} does not list the adapter `{name}` that it has loaded")

    def unload(self, name: str) -> None:
        """Lets go of an adapter, if both are there."""
        if self.poisoned or self.is_away:
            return
        with suppress(ModelForgotten):  # it never had it, or has restarted since
            self.transport.post("/v1/unload_lora_adapter", {"lora_name": name}, _read_text)

    def answer(self, asked: Sequence[Asked], name: str | None, end_ids: Sequence[int]) -> list[Response]:
        """Answers requests, of which those that can share a body do.

        Args:
            asked: The requests.
            name: The adapter's; None: the base.
            end_ids: Tokens that end a text.

        Raises:
            InvalidWeights: the answers are NaN or infinite.
            ModelForgotten: the server does not know the adapter.
            EngineError: it does not answer rightly.
            ServiceOutage: it does not answer.
        """
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, one in enumerate(asked):
            alone = place if one.scores_prompt and not self._scores_together else None
            groups.setdefault((one.max_tokens, one.stop, one.scores_prompt, one.shared, alone), []).append(place)
        found: dict[int, Response] = {}
        for places in groups.values():
            found |= zip(places, self._post([asked[place] for place in places], name, end_ids), strict=True)
        return [found[place] for place in range(len(asked))]

    def check(self) -> None:
        """Asks the base for two tokens, and does not use the server again if one is NaN: its KV cache is spoilt.

        Raises:
            InputError: it is another base than at first: a server may have been restarted with other weights.
        """
        try:
            self._post([FIRST], None, ())  # so short that it reads what is left of others in its block of the KV cache
            [response] = self._post([_KNOWN], None, ())
            for said in response.logprobs:
                self._require_same(said)
        except InvalidWeights:
            self.poisoned = (
                f"the server at {self.url} answers NaN for the base itself since some adapter's answers were NaN; "
                "it is not used again: restart it"
            )

    def _require_same(self, said: float) -> None:
        if self._said is None:
            self._said = said
        elif abs(said - self._said) > self._same:
            raise InputError(
                "the server has become another: its base answers otherwise than when it was checked",
                expected=f"log-probability {self._said:.4f} of the likeliest token, up to {self._same:g}",
                got=f"{said:.4f}",
                where=self.url,
                fix="start it with the base and settings that it had; nothing is lost, and the same command goes on",
            )

    def _post(self, asked: Sequence[Asked], name: str | None, end_ids: Sequence[int]) -> list[Response]:
        model, is_cached = name or self.model, asked[0].shared[-1]
        salt = f"{self._salt}-{name}" if name else self._salt
        body = {
            **body_of(asked, with_logprobs=True),
            **_PLAIN,
            "model": model,
            "cache_salt": salt if is_cached else f"{salt[:60]}-{uuid4().hex}",
            "stop_token_ids": list(end_ids),
        }
        read = partial(read_completion, asked=asked, model=model, with_logprobs=True)
        try:
            return self.transport.post("/v1/completions", body, read)
        except ServiceOutage:
            self.is_away = True
            raise

    def _cards(self) -> list[_Card]:
        return self.transport.get("/v1/models", _Cards.model_validate).data

    def close(self) -> None:
        """Closes connections."""
        self.transport.close()


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise WrongAnswer(f"{json.dumps(value)[:80]} about an adapter")
    return value
