"""Joining a Ray cluster, or starting one on this machine: what cannot be reached is said within a minute."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from crossbreed.errors import InputError, MachineError

_REACHABLE_WITHIN_S = 20.0


def connect(ray: Any, address: str | None) -> None:
    """Connects this process to Ray.

    Args:
        ray: The module.
        address: `auto` or HOST:PORT; None for a cluster on this machine.

    Raises:
        InputError: the address is none.
        MachineError: nobody listens there, or Ray could not be started.
    """
    if address is not None:
        _require_listener(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with _handlers_kept():
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except ValueError as error:
        raise _no_address(address or "local", str(error)) from None
    except (ConnectionError, RuntimeError) as error:
        hint = "" if "RAY_AUTH_MODE" in os.environ or not address else _TOKEN_HINT
        raise MachineError(
            f"Ray could not be reached or started (address: {address or 'local'}): {error}{hint}"
        ) from None


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Leaves the program its own handlers of signals: Ray's for SIGTERM ends the process with exit 1."""
    if threading.current_thread() is not threading.main_thread():  # others may set none
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler) and not isinstance(handler, signal.Handlers):
                signal.signal(number, handler)


_TOKEN_HINT = "\nIf the cluster was started with a token, set RAY_AUTH_MODE=token here, too."


def _require_listener(address: str) -> None:
    """Looks whether somebody listens: Ray itself would try for a quarter of an hour."""
    place = address.rpartition("://")[2].partition("/")[0]
    host, colon, port = place.rpartition(":")
    if not colon:
        if place in ("auto", "local"):
            return
        raise _no_address(address, "no port")
    if not port.isdecimal() or not host or not 0 < int(port) < 2**16:
        raise _no_address(address, "no host and port")
    try:
        with closing(socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHABLE_WITHIN_S)):
            pass
    except OSError as error:
        raise MachineError(
            f"no Ray cluster answers at {address}: {error.strerror or error}. Start one there (`ray start --head`), or "
            "correct `workers.address`"
        ) from None


def _no_address(address: str, why: str) -> InputError:
    return InputError(
        "`workers.address` is not the address of a Ray cluster",
        expected="`auto` or HOST:PORT",
        got=f"{address[:200]!r} ({why[:200]})",
        where="workers.address",
    )
