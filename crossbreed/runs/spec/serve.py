"""The section `serve`: who may ask a merge service for what, and how much (docs/api.md)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from crossbreed.config import Config, InputPath, Name
from crossbreed.fitness import SplitConfig
from crossbreed.fitness.wire import Right
from crossbreed.recipes.operators import OPERATORS

MODULES = ("fastapi", "uvicorn", "prometheus_client")
"""What a service imports and the core does not depend on: the extra `serve`."""
ALL_RIGHTS: tuple[Right, ...] = ("answers", "logprobs", "scores", "publish")


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the smallest coefficient stands first, then the largest")
    return bounds


def _installed(operators: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for name in operators or ():
        OPERATORS.require(name, where="serve.limits.operators")
    return operators


class TokenConfig(Config):
    """A client of the service: its key, and what it may do. Budgets are counted from the service's start."""

    key_env: Annotated[str, Field(min_length=1)]
    """The environment variable that holds the key, at least 16 characters. A key never stands in a file."""
    rights: Annotated[tuple[Right, ...], Field(min_length=1)]
    """`answers`: texts. `logprobs`: log-probabilities, and inner products of the sources. `scores`: values of the
    provider's own tasks. `publish`: checkpoints in the folder `checkpoints`."""
    merges: Annotated[int, Field(ge=0)] | None = None
    """Number of merges that it may have made; None: any."""
    requests: Annotated[int, Field(ge=0)] | None = None
    """Number of requests."""
    tokens: Annotated[int, Field(ge=0)] | None = None
    """Number of tokens, of prompts and answers together."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Rate of requests, beyond which it is told to wait."""
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Rate of tokens."""


class RecipeLimits(Config):
    """What recipes may be."""

    operators: Annotated[tuple[str, ...] | None, AfterValidator(_installed)] = None
    """The operators that rules may name; None: all that are installed."""
    coefficients: Annotated[tuple[float, float], AfterValidator(_ordered)] = (-10.0, 10.0)
    """Smallest and largest number in a rule's parameters, but for those that are no coefficients, such as `steps`: they
    have the range in which their operator is searched, which clients are told."""
    rules: Annotated[int, Field(ge=1)] = 2000
    """Most rules of a recipe."""
    pattern_characters: Annotated[int, Field(ge=1)] = 1 << 18
    """Most characters of a recipe's patterns together."""


class ServeConfig(Config):
    """A merge service: `crossbreed serve`. May change on resume."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address to listen at. Beyond loopback, `tokens` are needed."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The port; 0: any free one."""
    tokens: dict[Name, TokenConfig] = Field(default_factory=dict)
    """Name -> client. Without any, whoever reaches the address on this machine has all rights."""
    limits: RecipeLimits = RecipeLimits()
    """Bounds of the recipes that clients name."""
    detail: Literal["items", "aggregate"] = "items"
    """What `/v1/evaluations` tells: a value for each item, or nothing but means and their standard errors."""
    split: SplitConfig | None = None
    """With `detail: aggregate`: the items of each split, counts or fractions, so that a client's search, selection and
    report each have a mean of their own. None: one mean, of all items; no client can search with it."""
    checkpoints: InputPath | None = None
    """The folder in which clients with the right `publish` have checkpoints written; None: nobody has."""
    merges_kept: Annotated[int, Field(ge=1)] = 64
    """Number of recipes remembered for each client; one that is forgotten is named again by `POST /v1/merges`."""
    chunk: Annotated[int, Field(ge=1)] = 256
    """Most prompts in one request."""
    max_tokens: Annotated[int, Field(ge=1)] = 4096
    """Most tokens of one answer."""
    chunk_tokens: Annotated[int, Field(ge=1)] = 1 << 18
    """Most tokens of one request, its prompts and the longest answers that it asks for: nobody else is answered while
    it is."""
    alternatives: Annotated[int, Field(ge=0, le=20)] = 5
    """How many of the most likely tokens can be listed at each place."""
    queue: Annotated[int, Field(ge=1)] = 32
    """Most requests of one client that wait for the engine; beyond, it is told that the service is full."""
    fairness_s: Annotated[float, Field(ge=0)] = 2.0
    """Seconds that a request for another model waits before the engine changes models for it."""
    body_bytes: Annotated[int, Field(ge=1024)] = 4 << 20
    """Largest body of a request."""
    header_s: Annotated[float, Field(gt=0)] = 10.0
    """Seconds in which a request's headers must arrive."""
    body_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds in which a request's body must arrive."""
    send_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds in which a client must have taken an answer; else its connection is ended."""
    answer_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds after which a request that is not answered is refused; an engine that takes longer for one chunk counts
    as hung, and `/health` says so."""
    stop_s: Annotated[int, Field(ge=1)] = 30
    """Seconds that open requests are given when the service is stopped."""
    connections: Annotated[int, Field(ge=1)] = 512
    """Most open connections; while there are more, requests are told that the service is full."""
    ssl_certfile: InputPath | None = None
    """Certificate chain (PEM), for HTTPS without a proxy."""
    ssl_keyfile: InputPath | None = None
    """Its private key."""

    @model_validator(mode="after")
    def _clients_split_what_they_are_told(self) -> "ServeConfig":
        if self.split is not None and self.detail == "items":
            raise ValueError("`split` goes with `detail: aggregate`: clients split items that they are told themselves")
        return self

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> "ServeConfig":
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("`ssl_certfile` and `ssl_keyfile` go together")
        return self
