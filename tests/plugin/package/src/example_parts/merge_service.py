"""An engine behind an address: a service merges by recipe and answers prompts. No weights are seen here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from pydantic import Field

from crossbreed.fitness import EnginePart, RecipeEngineConfig, Request, Response, library_call
from crossbreed.sources.structure import Structure
from crossbreed.types import Recipe


class MergeServiceConfig(RecipeEngineConfig):
    """A service that merges by recipe and answers prompts."""

    kind: Literal["merge_service"] = "merge_service"
    url: str
    """Where it listens, for example `http://127.0.0.1:8000`."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """How long it may take for one chunk of requests."""

    def describe_sources(self, base: str, experts: Mapping[str, str]) -> Structure:
        """Asks the service for shapes and hashes."""
        with library_call(f"{self.url}/sources answers something else than a structure"):
            return Structure.from_json(self.post("sources", {"base": base, "experts": dict(experts)}))

    def identity(self) -> dict[str, Any]:
        """Returns what may not change when a run goes on: the service may move."""
        return self.model_dump(mode="json", exclude={"url", "timeout_s"})

    def post(self, path: str, body: object) -> Any:
        """Returns what the service answers, as JSON."""
        headers = {"Content-Type": "application/json"}
        request = HttpRequest(f"{self.url}/{path}", data=json.dumps(body).encode(), headers=headers)
        with library_call(f"no answer from {self.url}/{path}"), urlopen(request, timeout=self.timeout_s) as reply:
            return json.load(reply)


class MergeService:
    """Says which recipe is wanted; the service makes its weights when it is first asked something."""

    def __init__(self, config: MergeServiceConfig) -> None:
        self._config = config

    def adopt(self, recipe: Recipe) -> "MergedModel":
        """Sends the recipe."""
        reply = self._config.post("adopt", recipe.to_json())
        with library_call(f"{self._config.url}/adopt answers something else than a model"):
            return MergedModel(self._config, model=reply["model"], fingerprint=reply.get("fingerprint"))

    def close(self) -> None:
        """Holds nothing."""


@dataclass(frozen=True, slots=True)
class MergedModel:
    """A candidate."""

    config: MergeServiceConfig
    model: str
    """What the service calls it."""
    fingerprint: str | None
    """Which weights answer, if the service says so."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Sends one chunk of requests."""
        asked = [{"kind": type(request).__name__, **asdict(request)} for request in requests]
        replies = self.config.post("answer", {"model": self.model, "requests": asked})
        with library_call(f"{self.config.url}/answer answers something else than responses"):
            return [
                Response(
                    text=reply["text"],
                    token_ids=tuple(reply["token_ids"]),
                    logprobs=tuple(reply["logprobs"]),
                    prompt_tokens=reply["prompt_tokens"],
                )
                for reply in replies
            ]


PART = EnginePart(config=MergeServiceConfig, takes="recipe", make=f"{__name__}:MergeService")
