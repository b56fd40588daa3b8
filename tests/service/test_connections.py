"""Strangers at a real socket: too many are told so in the one shape of errors, and who never reads holds no place."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import uvicorn
from service_client import account
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from crossbreed.runs.spec.serve import ServeConfig
from crossbreed.service.accounts import Accounts
from crossbreed.service.connections import Crowd
from crossbreed.service.guard import Attended, Bounded, Known, Roomy, Watched
from crossbreed.service.metrics import Metrics
from crossbreed.service.server import listening, settings_of

LARGE = 16 << 20
KEY = "k" * 20
GET = f"GET /large HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(b"x" * (LARGE if scope["path"] == "/large" else 100))(scope, receive, send)


@contextmanager
def served(app: ASGIApp = large, **settings: float) -> Iterator[tuple[int, Crowd]]:
    """A service without an engine, behind all that stands around one; yields its port and its connections."""
    config = ServeConfig.model_validate({"port": 0, "header_s": 30, **settings})
    crowd = Crowd(most=config.connections)
    known = Known(Bounded(Attended(app), max_bytes=100, seconds=9), Accounts(dict([account("alice", KEY)]), None), None)
    server = uvicorn.Server(settings_of(Watched(Roomy(known, crowd), Metrics()), config, crowd))
    with listening(config) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        yield listener.getsockname()[1], crowd
        server.should_exit = True
        thread.join(20)


def connected(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", port))
    return connection


def wait_until(is_so: Callable[[], bool], *, seconds: float = 10.0) -> bool:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s and not is_so():
        time.sleep(0.02)
    return is_so()


def test_too_many_connections_are_told_so_as_any_error_is() -> None:
    with served(connections=2) as (port, crowd):
        silent = [connected(port) for _ in range(2)]
        assert wait_until(lambda: crowd.count == 2)
        with connected(port) as late:
            late.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")  # without a key: nobody looks at it
            answer = b"".join(iter(lambda: late.recv(4096), b""))  # the service closes it
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: " in head.lower()
        assert json.loads(body)["error"]["code"] == "overloaded"
        with connected(port) as watching:  # whoever restarts a service that does not answer must not be made to
            watching.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert watching.recv(15) == b"HTTP/1.1 200 OK"
        silent.pop().close()
        assert wait_until(lambda: crowd.count < 2)
        with connected(port) as next_one:
            next_one.sendall(GET)
            assert next_one.recv(15) == b"HTTP/1.1 200 OK"
        silent.pop().close()


@pytest.mark.parametrize("drip", [0, 4096], ids=["never", "drop by drop"])
def test_who_does_not_read_an_answer_holds_no_place(drip: int) -> None:
    with served(send_s=0.6) as (port, crowd):
        reader = connected(port)
        reader.sendall(GET)
        began_s = time.monotonic()
        assert wait_until(lambda: crowd.count == 1)
        while crowd.count and time.monotonic() < began_s + 10:
            with suppress(OSError):  # it has been ended
                reader.recv(drip) if drip else None
            time.sleep(0.05)
        assert crowd.count == 0
        assert 0.4 < time.monotonic() - began_s < 8
        reader.close()


def test_what_nobody_waits_for_any_more_is_ended() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.request", "body": b"{}", "more_body": False}
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with served(slow) as (port, _):
        with connected(port) as client:
            head = GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n")
            client.sendall(head + b"{")
            client.sendall(b"}")
            assert begun.wait(10)
            assert not ended.wait(0.2)
        assert ended.wait(10)


def test_who_reads_is_left_alone() -> None:
    """The second answer comes after the deadline of the first."""
    with served(send_s=4) as (port, crowd), socket.create_connection(("127.0.0.1", port), timeout=10) as reader:
        for _ in range(2):
            reader.sendall(GET)
            received = 0
            while received < LARGE:
                part = reader.recv(1 << 20)
                assert part, "the connection was ended"
                received += len(part)
            time.sleep(2.1)
        assert crowd.count == 1
