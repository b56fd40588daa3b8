"""What a command shows while it works and when it is done, and the stop that it listens to."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from crossbreed.stopping import Stop

if TYPE_CHECKING:
    from crossbreed.runs.events import Event, Listener

STOP = Stop()
"""Ctrl-C and SIGTERM, for the command of this process."""


@contextmanager
def shown(*, doing: str = "") -> "Iterator[Listener]":
    """Yields a listener that shows events, and ends the run at the first one after a Ctrl-C that got lost.

    Args:
        doing: What goes on before the first event.
    """
    from crossbreed.terminal import Terminal

    with Terminal(doing=doing) as show:

        def tell(event: "Event") -> None:
            show(event)
            STOP.check()

        yield tell


def print_json(value: Any) -> None:  # any JSON value
    """Prints one document."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
