"""A network that fails as real ones do, by a seed; and a clock that a test can wait on without waiting."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from threading import Lock
from typing import Any

import httpx2

from crossbreed.randomness import spawn


@dataclass
class SimulatedClock:
    """Time that passes when somebody sleeps."""

    seconds: float = 0.0
    _lock: Any = field(default_factory=Lock)

    def now(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return 1_700_000_000.0 + self.seconds

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.seconds += seconds


KINDS = (
    *("429", "429 date", "500", "503", "reset", "stall", "refused", "truncated", "empty", "html", "list"),
    *("no logprobs", "nan", "positive", "short", "wrong model", "swapped", "missing choice", "restart", "cut"),
)


@dataclass
class Faulty(httpx2.BaseTransport):
    """A transport that puts faults in the way of another one, before or after it has done its work."""

    inner: httpx2.BaseTransport
    clock: SimulatedClock
    restart: Callable[[], None]
    seed: int = 0
    share: float = 0.3
    """Of requests that get a fault."""
    most: int = 10**9
    kinds: Sequence[str] = KINDS
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rng, self._lock = spawn(self.seed, "faults"), Lock()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        kind = self.drawn()
        return self.fault(kind, request) if kind else self.inner.handle_request(request)

    def drawn(self) -> str:
        """The next request's fault; empty if it gets none."""
        with self._lock:
            if self.counts.total() >= self.most or self._rng.random() >= self.share:
                return ""
            kind = str(self._rng.choice(self.kinds))
            self.counts[kind] += 1
            return kind

    def fault(self, kind: str, request: httpx2.Request) -> httpx2.Response:
        simple = {
            "429": httpx2.Response(429, headers={"Retry-After": "7"}, json={"error": {"message": "slow down"}}),
            "429 date": httpx2.Response(429, headers={"Retry-After": formatdate(self.clock.wall() + 9, usegmt=True)}),
            "500": httpx2.Response(500, content=b"Internal Server Error"),
            "503": httpx2.Response(503, json={"error": {"message": "full", "code": "overloaded"}}),
            "empty": httpx2.Response(200, json={}),
            "html": httpx2.Response(200, headers={"Content-Type": "text/html"}, content=b"<html>please log in</html>"),
            "list": httpx2.Response(200, json=[]),
        }
        if kind in simple:
            return simple[kind]
        if kind == "refused":
            raise httpx2.ConnectError("connection refused", request=request)
        if kind == "restart":
            self.restart()
            raise httpx2.ConnectError("connection refused", request=request)
        answer = self.inner.handle_request(request)  # the work is done, and its answer lost
        if kind == "reset":
            raise httpx2.ReadError("connection reset by peer", request=request)
        if kind == "stall":
            self.clock.sleep(30.0)
            raise httpx2.ReadTimeout("timed out", request=request)
        if kind == "cut":
            raise httpx2.RemoteProtocolError("peer closed connection without complete message", request=request)
        content = answer.read()
        if kind == "truncated":
            return httpx2.Response(answer.status_code, content=content[: len(content) // 2])
        return httpx2.Response(answer.status_code, content=spoilt(kind, content))


def spoilt(kind: str, content: bytes) -> bytes:
    """An answer with something wrong in it that a client could take for right; another kind of wrong where it has
    nothing of the kind.
    """
    value: Any = json.loads(content)
    choices = value.get("choices") if isinstance(value, dict) else None
    if not choices:
        return b"null"
    first = choices[0]
    tables = first.get("prompt_logprobs")
    of_text = (first.get("logprobs") or {}).get("token_logprobs")
    match kind:
        case "no logprobs":
            first["logprobs"] = first["prompt_logprobs"] = None
        case "nan" | "positive":
            number = float("nan") if kind == "nan" else 0.5
            if of_text:
                of_text[0] = number
            if tables:
                tables[-1] = {key: {"logprob": number} for key in tables[-1]}
            if not of_text and not tables:
                return b"null"
        case "short":
            first["token_ids"] = [1, *first["token_ids"]]
            if tables:
                tables.pop()
        case "wrong model":
            value["model"] = "base" if value["model"] != "base" else "crossbreed:0123456789ab"
        case "swapped" if len(choices) > 1:
            choices[0]["index"], choices[1]["index"] = 1, 0
        case _:
            choices.pop()
    return json.dumps(value).encode()
