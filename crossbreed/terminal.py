"""The output of the command line: events as they happen."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TextIO

from rich.console import Console

from crossbreed.errors import printable
from crossbreed.runs.events import Event, ReportWritten, TrialDone
from crossbreed.runs.results.report_text import summary


class Terminal:
    """A listener that shows trials in one updated line on a terminal, and elsewhere in a plain line each.

    A pager that ends, a terminal that is closed or a standard output that never was end no run: from then on nothing is
    shown, and log.txt has it all.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        """Creates the listener.

        Args:
            file: The output; default: stdout.
        """
        self._file: TextIO | None = file or sys.stdout  # None where the standard output is closed
        self._is_inside_line = False

    def __call__(self, event: Event) -> None:
        """Shows an event; see `crossbreed.runs.events.Listener`."""
        self._guarded(lambda file: self._show(file, event))

    def _show(self, file: TextIO, event: Event) -> None:
        if isinstance(event, TrialDone) and file.isatty():
            file.write(f"\r\x1b[2K{printable(str(event))}")
            self._is_inside_line = True
        else:
            self._end_line(file)
            if isinstance(event, ReportWritten):
                console = Console(file=file)
                with console.capture() as table:  # rich ends the process at a closed pipe
                    console.print(summary(event.report))
                file.write(f"{table.get()}\nreport: {event.path}\n")
            else:
                file.write(f"{_printable_lines(event)}\n")
        file.flush()

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guarded(self._end_line)

    def _end_line(self, file: TextIO) -> None:
        if self._is_inside_line:
            file.write("\n")
            self._is_inside_line = False

    def _guarded(self, show: Callable[[TextIO], None]) -> None:
        if self._file is None:
            return
        try:
            show(self._file)
        except OSError:  # closed pipe, terminal that is gone
            let_go(self._file)
            self._file = None


def let_go(stream: TextIO | None) -> None:
    """Lets what is still buffered for a stream that nobody reads go nowhere, so that the process ends quietly."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def _printable_lines(event: Event) -> str:
    return "\n".join(map(printable, str(event).split("\n")))
