"""Connections that send no whole request, or do not take their answer, are ended in time: uvicorn waits for ever.

A subclass of uvicorn's protocol, given to its documented setting `http`. It reads one attribute that is not documented,
`cycle`, the request in hand, and extends `on_response_complete` (uvicorn 0.40 to 0.54; tests/service/test_server.py and
tests/service/test_connections.py hold it).
"""

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(slots=True, kw_only=True)
class Crowd:
    """The open connections."""

    most: int
    """From one more on, requests are refused."""
    count: int = 0

    @property
    def is_full(self) -> bool:
        """Whether there are more than may be."""
        return self.count > self.most


class BoundedConnection(H11Protocol):
    """Ends a connection whose headers take too long, or whose answer is not taken; a subclass says how long that is."""

    header_s: ClassVar[float] = 10.0
    send_s: ClassVar[float] = 60.0
    crowd: ClassVar[Crowd] = Crowd(most=1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # uvicorn's own
        """Begins without a connection."""
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        """Of the headers."""
        self._sending: asyncio.TimerHandle | None = None
        """When the other side must have taken what waits for it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self.crowd.count += 1
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Waits on while no request is whole; what comes drop by drop does not move the deadline."""
        if not self.transport.get_write_buffer_size():
            self._stop("_sending")
        super().data_received(data)
        if self._is_idle:
            self._wait()
        else:
            self._stop("_deadline")

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends waiting."""
        self.crowd.count -= 1
        self._stop("_deadline", "_sending")
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begins to wait for the other side to read; reading drop by drop does not move the deadline."""
        super().pause_writing()
        self._wait_for_reader()

    def on_response_complete(self) -> None:
        """Goes on to wait for the other side to read what is left."""
        if self.transport.get_write_buffer_size():
            self._wait_for_reader()
        super().on_response_complete()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _stop(self, *timers: Literal["_deadline", "_sending"]) -> None:
        for name in timers:
            timer: asyncio.TimerHandle | None = getattr(self, name)
            if timer is not None:
                timer.cancel()
                setattr(self, name, None)

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_s, self._close)

    def _close(self) -> None:
        self._deadline = None
        if self._is_idle and not self.transport.is_closing():
            self.transport.close()

    def _wait_for_reader(self) -> None:
        if self._sending is None:
            self._sending = self.loop.call_later(self.send_s, self._abort)

    def _abort(self) -> None:
        """Ends the connection at once: closing it would wait until everything is read."""
        self._sending = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()


def connections_within(header_s: float, send_s: float, crowd: Crowd) -> type[BoundedConnection]:
    """Returns the protocol that waits so long, and counts into `crowd`."""
    return type("BoundedConnectionOf", (BoundedConnection,), {"header_s": header_s, "send_s": send_s, "crowd": crowd})
