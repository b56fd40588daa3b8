"""Around the application: who asks, how large and how slow a body may be, what is logged and counted.

Pure ASGI, outermost first: `Watched`, `Roomy`, `Known`, `Bounded`, `Attended`, then FastAPI. So a stranger's body is
never read, a body without end is never held, whatever is raised inside becomes an answer of the one shape, and nothing
is begun for somebody who has gone.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossbreed.fitness import wire
from crossbreed.json_text import parse_json
from crossbreed.service.accounts import Accounts
from crossbreed.service.connections import Crowd
from crossbreed.service.logs import frames_of, said
from crossbreed.service.metrics import Metrics
from crossbreed.service.refusals import Refusal, bad_request

_LOG = logging.getLogger(__name__)
OPEN_PATHS = frozenset({"/health"})
"""What anybody may ask, uncounted."""
UNCOUNTED = OPEN_PATHS | {"/metrics"}
_METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")
_MOST_HEADERS = 100
_MOST_KEYS = 100
_STOPPED_RETRY_S = 5.0
_FULL_RETRY_S = 5.0
_GONE = 499
"""Of a request that nobody waits for any more, for the log: no status of HTTP's own."""
_LARGE = 1 << 16
"""Bytes of a body that takes longer than others should wait for."""


def _parse(body: bytes) -> None:
    if any(len(found) > _MOST_KEYS for found in _objects(parse_json(body.decode()))):
        raise ValueError(f"an object of more than {_MOST_KEYS} keys")


def _objects(value: object) -> Iterator[dict[str, object]]:
    """Yields the objects of which each unknown key would be a mistake to tell: all but those of a recipe."""
    inside: Iterable[object] = value if isinstance(value, list) else ()
    if isinstance(value, dict):
        yield value
        inside = (one for key, one in value.items() if key != "recipe")
    for one in inside:
        if isinstance(one, dict | list):
            yield from _objects(one)


class Watched:
    """Logs and counts each request, and answers for what was raised."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wraps an application."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["facts"] = facts = dict[str, Any]()
        began_s, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Refusal as refusal:
            facts["refused"] = refusal.code
            if not status:
                await refusal.response()(scope, receive, sending)
        except asyncio.CancelledError:  # stopped before the engine has answered
            if not status:
                late = Refusal(503, "the service stops", code=wire.OVERLOADED, retry_after_s=_STOPPED_RETRY_S)
                await late.response()(scope, receive, sending)
        except Exception as error:  # a bug: its message may hold a prompt, so only its place is logged
            _LOG.error("a bug", extra=said(error=type(error).__name__, at=frames_of(error)))
            if not status:  # raised around the application, which answers for what is raised inside
                fault = Refusal(500, "a fault of the service; its log says where", code="internal_error")
                await fault.response()(scope, receive, sending)
        finally:
            seconds, path = time.perf_counter() - began_s, getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"  # any word is one
            self._metrics.count(path, method, status, seconds)
            if path not in UNCOUNTED:
                fields = {"method": method, "path": path, "status": status, "seconds": round(seconds, 4)}
                _LOG.info("request", extra=said(**fields, **facts))


class Roomy:
    """Refuses requests while too many connections are open; that the engine answers is said all the same."""

    def __init__(self, app: ASGIApp, crowd: Crowd) -> None:
        """Wraps an application."""
        self._app, self._crowd = app, crowd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and self._crowd.is_full and scope["path"] not in OPEN_PATHS:
            full = Refusal(503, "too many connections", code=wire.OVERLOADED, retry_after_s=_FULL_RETRY_S)
            response = full.response()
            response.headers["Connection"] = "close"  # it makes room
            scope["state"]["facts"]["refused"] = full.code
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)


class Known:
    """Finds the client by its key, and counts its requests."""

    def __init__(self, app: ASGIApp, accounts: Accounts, hosts: Collection[str] | None) -> None:
        """Wraps an application.

        Args:
            app: The application.
            accounts: All clients.
            hosts: The names by which the service may be called; None: any. Without keys, a page that makes its own name
                point to this machine (DNS rebinding) is refused by them.
        """
        self._app, self._accounts, self._hosts = app, accounts, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            name = host[: host.index("]") + 1] if "]" in host else host.partition(":")[0]
            if self._hosts is not None and name.lower() not in self._hosts:
                raise Refusal(403, "this service has another name", code="wrong_host")
            if len(scope["headers"]) > _MOST_HEADERS:
                raise bad_request(f"more than {_MOST_HEADERS} headers")
            if scope["path"] not in OPEN_PATHS:
                account = self._accounts.of(headers.get("authorization"))
                scope["state"]["account"] = account
                scope["state"]["facts"]["client"] = account.name
                if scope["path"] not in UNCOUNTED:
                    account.count_request()
        await self._app(scope, receive, send)


class Bounded:
    """Reads a body whole, within limits of size and time, and passes on only what is JSON that can be read."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float) -> None:
        """Wraps an application."""
        self._app, self._max_bytes, self._seconds = app, max_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._max_bytes:
            raise self._too_large()
        try:
            body = await asyncio.wait_for(self._read(receive), self._seconds)
        except TimeoutError:
            message = f"the body has not arrived in {self._seconds:g} s"
            raise Refusal(408, message, code="request_timeout") from None
        if body:
            try:
                if len(body) > _LARGE:
                    await asyncio.to_thread(_parse, body)
                else:
                    _parse(body)
            except ValueError as error:  # UnicodeError too
                raise bad_request(f"the body is not JSON that can be read: {str(error)[:200]}") from None
        is_told = False

        async def replay() -> Message:
            nonlocal is_told
            if is_told:
                return await receive()
            is_told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes:
        parts, size = list[bytes](), 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise bad_request("the connection was closed before the body had arrived")
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"a body has at most {self._max_bytes} bytes", code="body_too_large")


class Attended:
    """Ends a request whose client hangs up: what still waits is not done, and costs nothing."""

    def __init__(self, app: ASGIApp) -> None:
        """Wraps an application, which reads no more than the first message."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, is_answered = await receive(), False

        async def reading() -> Message:
            nonlocal body
            told, body = body, {"type": "http.disconnect"}
            return told

        async def sending(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        async def leaving() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        tasks = asyncio.ensure_future(self._app(scope, reading, sending)), asyncio.ensure_future(leaving())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if is_answered or tasks[0].done():
                await tasks[0]
                return
        finally:
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise Refusal(_GONE, "the client has hung up", code="client_gone")
