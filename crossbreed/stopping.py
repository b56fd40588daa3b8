"""Ctrl-C and SIGTERM on the command line: the first unwinds, so that workers stop, the second ends the process.

Either is safe for the journal. Python drops an exception that is raised in a `__del__` or in a callback of a weak
reference, and a library may catch one and go on. So what was asked is remembered, and honoured at the next event.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 130
"""The exit code."""


class Stop:
    """Whether the user has asked the command to stop."""

    def __init__(self) -> None:
        """Nothing is asked; `listen` begins."""
        self._is_asked = self._is_over = False

    def listen(self) -> None:
        """Takes both signals; a terminal that is closed ends no run. Workers inherit that."""
        self._is_asked = self._is_over = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._heard)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def check(self) -> None:
        """Raises KeyboardInterrupt if a stop was asked for, and what it raised then has not arrived."""
        if self._is_asked:
            raise KeyboardInterrupt

    def end(self) -> None:
        """Notes that the command is over, so that what is printed last is printed; then as `check`.

        A stop comes before an error: closing what was stopped may raise one.
        """
        self._is_over = True
        self.check()

    @contextmanager
    def as_end(self) -> Iterator[None]:
        """Takes a stop in the block as the ordinary end of what is only looked at."""
        try:
            yield
        except KeyboardInterrupt:
            self._is_asked = False

    def _heard(self, signum: int, frame: FrameType | None) -> None:
        if self._is_asked:
            os._exit(STOPPED)
        self._is_asked = True
        if not self._is_over:
            raise KeyboardInterrupt
