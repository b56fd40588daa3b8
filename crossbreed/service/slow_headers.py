"""Connections that send no whole request are closed in time: uvicorn itself waits for headers for ever.

A subclass of uvicorn's protocol, given to its documented setting `http`. It reads one attribute that is not documented,
`cycle`, the request in hand (uvicorn 0.40 to 0.54; tests/service/test_server.py holds it).
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class HeadersInTime(H11Protocol):
    """Closes its connection where headers take longer than `header_s`; a subclass says how long that is."""

    header_s: float = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # uvicorn's own
        """Begins without a connection."""
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Waits on while no request is whole; what comes drop by drop does not move the deadline."""
        super().data_received(data)
        if self._is_idle:
            self._wait()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_s, self._close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._deadline = None
        if self._is_idle and not self.transport.is_closing():
            self.transport.close()


def headers_within(seconds: float) -> type[HeadersInTime]:
    """Returns the protocol that waits so long."""
    return type("HeadersInTimeOf", (HeadersInTime,), {"header_s": seconds})
