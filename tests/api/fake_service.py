"""A merge service without models: the words of docs/api.md around the engine that takes recipes in tests.

Tokens are bytes, after one that begins every text. It is a transport for the client, in this process; `json_server`
serves it to another one.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from statistics import stdev
from typing import Any

import httpx2

from crossbreed.fitness import Generate, Prompt
from crossbreed.fitness.wire import MODEL_PREFIX, Right
from crossbreed.recipes import parse_recipe
from crossbreed.recipes.operators import OPERATORS
from crossbreed.testing.fake_answers import respond
from crossbreed.testing.fake_recipes import FakeRecipeEngine, FakeRecipeHandle, FakeRecipesConfig
from crossbreed.types import Recipe

BEGIN = 256
KEY = "sk-canary-6f1d"
EXPERTS = ("one", "two", "three")
STRUCTURE = FakeRecipesConfig(kind="fake_recipes").describe_sources("fake/base", {e: f"fake/{e}" for e in EXPERTS})
REMOTE = tuple(f"item-{i}" for i in range(60))


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class FakeService(httpx2.BaseTransport):
    """Merges and answers as `fake_recipes` does."""

    rights: tuple[Right, ...] = ("answers", "logprobs", "scores", "publish")
    key: str | None = None
    chunk: int = 64
    only_aggregates: bool = False
    splits: dict[str, int] | None = None
    """With `only_aggregates`: split -> number of its items."""
    tells_errors: bool = True
    """Whether a mean is told with its standard error."""
    limits: dict[str, Any] = field(
        default_factory=lambda: {"operators": list(OPERATORS.ours), "coefficients": [-10, 10], "rules": 2000}
    )
    host: str = "0123456789ab"
    """Of the tokenizer, configuration and templates."""
    engine: str = "float32"
    """Of the engine's settings."""
    content: str = "first"
    """Of its tasks."""
    salt: str = ""
    """Changes fingerprints: the provider has other weights now."""
    made: dict[str, FakeRecipeHandle] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.read() or b"null")
        status, answer = self.reply(request.url.path, body, request.headers.get("Authorization"))
        return httpx2.Response(status, json=answer)

    def reply(self, path: str, body: Any, authorization: str | None) -> tuple[int, Any]:
        self.asked.append((path, body))
        try:
            if self.key is not None and authorization != f"Bearer {self.key}":
                raise Refused(401, "invalid_api_key", f"no such key: {authorization}")
            name = {
                "/v1/sources": self._sources,
                "/v1/sources/inner_products": self._inner_products,
                "/v1/merges": self._merge,
                "/v1/tokenize": self._tokenize,
                "/v1/completions": self._complete,
                "/v1/evaluations": self._evaluate,
                "/v1/checkpoints": self._publish,
            }
            if path not in name:
                raise Refused(404, "", "no such path")
            return 200, name[path](body)
        except Refused as error:
            return error.status, {"error": {"message": str(error), "type": "x", "param": None, "code": error.code}}

    def restart(self) -> None:
        self.made.clear()

    def count(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.asked)

    def _sources(self, _: Any) -> Any:
        tasks = [
            {
                "name": name,
                "higher_is_better": True,
                "count": len(REMOTE),
                "items": None if self.only_aggregates else REMOTE,
                "splits": self.splits,
            }
            for name in ("secret", "hidden")
        ]
        return {
            "schema": 1,
            "structure": STRUCTURE.to_json(),
            "abilities": {
                "rights": self.rights,
                "deterministic": True,
                "batch_invariant": True,
                "max_model_len": 2048,
                "alternatives": 5,
                "chunk": self.chunk,
                "host": self.host,
                "engine": self.engine,
            },
            "limits": self.limits,
            "tasks": tasks if "scores" in self.rights else [],
        }

    def _inner_products(self, _: Any) -> Any:
        self._require("logprobs")
        sources = ("base", *EXPERTS)
        return {
            "tensors": {
                name: [[luck(name + min(a, b) + max(a, b)) / 4 + 9.0 * (a == b) for b in sources] for a in sources]
                for name in STRUCTURE.tensors
            }
        }

    def _merge(self, body: Any) -> Any:
        recipe = parse_recipe(body["recipe"])
        handle = FakeRecipeEngine(FakeRecipesConfig(kind="fake_recipes")).adopt(recipe)
        self.made[MODEL_PREFIX + recipe.id] = handle
        return {
            "id": MODEL_PREFIX + recipe.id,
            "object": "crossbreed.merge",
            "created": 1,
            "fingerprint": self._fingerprint(handle),
            "host": self.host,
            "engine": self.engine,
        }

    def _tokenize(self, body: Any) -> Any:
        text = body["prompt"] if "prompt" in body else rendered(body["messages"]) + body.get("continuation", "")
        tokens = [BEGIN, *text.encode()]
        return {"tokens": tokens, "count": len(tokens), "max_model_len": 2048}

    def _handle(self, model: str) -> FakeRecipeHandle:
        if model in ("base", *EXPERTS):
            recipe = Recipe(base="base", sources=STRUCTURE.hashes, rules=())
            return FakeRecipeEngine(FakeRecipesConfig(kind="fake_recipes")).adopt(recipe)
        if model not in self.made:
            raise Refused(404, "model_not_found", f"no model `{model}`")
        return self.made[model]

    def _complete(self, body: Any) -> Any:
        self._require("answers")
        if "logprobs" in body or "prompt_logprobs" in body:
            self._require("logprobs")
        handle, prompts = self._handle(body["model"]), body["prompt"]
        quality = cache(handle.quality)
        own = body.get("crossbreed", {})
        limits = own.get("max_tokens", [body["max_tokens"]] * len(prompts))
        stops = own.get("stop", [body.get("stop", [])] * len(prompts))
        if len(prompts) > self.chunk:
            raise Refused(400, "too_many", "too many prompts")
        choices = []
        for index, (ids, limit, stop) in enumerate(zip(prompts, limits, stops, strict=True)):
            text = bytes(one for one in ids if one != BEGIN).decode()
            asked = Generate(prompt=Prompt(text=text), max_tokens=limit, stop=tuple(stop))
            said = respond(asked, quality)
            choice: dict[str, Any] = {"index": index, "text": said.text, "finish_reason": "stop"}
            choice |= {"token_ids": said.token_ids, "prompt_token_ids": ids, "logprobs": None}
            if "logprobs" in body:
                choice["logprobs"] = {"token_logprobs": said.logprobs, "top_logprobs": None}
            if "prompt_logprobs" in body:
                choice["prompt_logprobs"] = [None, *scored(ids, quality)]
            choices.append(choice)
        return {"id": "cmpl", "object": "text_completion", "created": 1, "model": body["model"], "choices": choices}

    def _evaluate(self, body: Any) -> Any:
        self._require("scores")
        handle, items = self._handle(body["model"]), body.get("items") or self._split(body["split"])
        values = [float(luck(body["task"] + item) < handle.quality(body["task"])) for item in items]
        fingerprint = self._fingerprint(handle)
        return {
            "model": body["model"],
            "task": body["task"],
            "fingerprint": fingerprint,
            "values": None if self.only_aggregates else values,
            "mean": sum(values) / len(values),
            "count": len(values),
            "split": body.get("split"),
            "standard_error": stdev(values) / len(values) ** 0.5 if self.tells_errors and len(values) > 1 else None,
            "content": self.content,
        }

    def _split(self, name: str) -> tuple[str, ...]:
        assert self.splits is not None
        before = sum(list(self.splits.values())[: list(self.splits).index(name)])
        return REMOTE[before : before + self.splits[name]]

    def _publish(self, body: Any) -> Any:
        self._require("publish")
        handle = self._handle(body["model"])
        return {"id": body["model"], "name": "merge-1", "fingerprint": self._fingerprint(handle)}

    def _fingerprint(self, handle: FakeRecipeHandle) -> str:
        return f"{handle.fingerprint}{self.salt}"

    def _require(self, right: Right) -> None:
        if right not in self.rights:
            raise Refused(403, "no_right", f"no right `{right}`")


def rendered(messages: list[dict[str, str]]) -> str:
    return "".join(f"<{one['role']}>{one['content']}\n" for one in messages) + "<assistant>"


def luck(text: str) -> float:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") / 2**64


def scored(ids: list[int], quality_at: Callable[[str], float]) -> list[dict[str, Any]]:
    """A log-probability for each token, given those before it, which the weights change."""
    text = bytes(one for one in ids if one != BEGIN).decode(errors="replace")
    quality = quality_at(text.partition("|")[0])
    found = []
    for end in range(1, len(ids)):
        surprise = luck(f"{ids[: end + 1]} {quality:.1f}")
        found.append({str(ids[end]): {"logprob": -0.01 - 5 * surprise, "rank": 1}})
    return found
