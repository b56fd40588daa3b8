"""The output of the command line: events as they happen.

Imports little: the first line is there before what it announces has been imported.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from crossbreed.errors import printable

if TYPE_CHECKING:
    from crossbreed.runs.events import Event, TrialDone
    from crossbreed.runs.phases import Phases


_SHOWN_AFTER_S, _EVERY_S = 3.0, 30.0
"""A terminal shows the seconds of what lasts longer than that; elsewhere, a line says that it still goes on."""


class Terminal:
    """A listener that shows trials in one updated line on a terminal, and elsewhere in a plain line each.

    What lasts shows that it lives: a terminal counts its seconds, anything else gets a line now and then.

    A pager that ends, a terminal that is closed or a standard output that never was end no run: from then on nothing is
    shown, and log.txt has it all.
    """

    def __init__(self, file: TextIO | None = None, *, doing: str = "") -> None:
        """Creates the listener.

        Args:
            file: The output; default: stdout.
            doing: What goes on before the first event, which may take a while to import; empty: nothing to say.
        """
        self._file: TextIO | None = file or sys.stdout  # None where the standard output is closed
        self._line = ""
        """The last trial's, which stays open on a terminal."""
        self._is_counting = False
        """Whether the seconds are shown at the end of the open line."""
        self._doing, self._since_s, self._next_s = doing, time.monotonic(), _EVERY_S
        self._phases: Phases | None = None
        self._lock, self._is_over = threading.RLock(), threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="terminal", daemon=True)

    def __call__(self, event: "Event") -> None:
        """Shows an event; see `crossbreed.runs.events.Listener`."""
        from crossbreed.runs.phases import Phases  # by now it is imported

        with self._lock:
            self._phases = self._phases or Phases()
            self._phases.after(event)
            self._doing, self._since_s, self._next_s = self._phases.text, time.monotonic(), _EVERY_S
            self._guarded(lambda file: self._show(file, event))

    def _show(self, file: TextIO, event: "Event") -> None:
        from crossbreed.runs.events import ReportWritten, TrialDone

        if isinstance(event, TrialDone) and file.isatty():
            self._line, self._is_counting = _fitting(event), False
            file.write(f"\r\x1b[2K{self._line}")
        else:
            self._end_line(file)
            if isinstance(event, ReportWritten):
                from rich.console import Console

                from crossbreed.runs.results.report_text import summary

                console = Console(file=file)
                with console.capture() as table:  # rich ends the process at a closed pipe
                    console.print(summary(event.report))
                file.write(f"{table.get()}\nreport: {event.path}\n")
            else:
                file.write(f"{_printable_lines(event)}\n")
        file.flush()

    def __enter__(self) -> "Terminal":
        if self._doing:
            self._guarded(lambda file: print(f"{printable(self._doing)} ...", file=file, flush=True))
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._ticker.join()
        self._guarded(self._end_line)

    def _tick(self) -> None:
        while not self._is_over.wait(1.0):
            with self._lock:
                self._guarded(self._count)

    def _count(self, file: TextIO) -> None:
        """Shows how long the present phase has lasted, if that is long."""
        lasts_s = time.monotonic() - self._since_s
        if not self._doing or lasts_s < _SHOWN_AFTER_S:
            return
        text = f"{printable(self._doing)}: {lasts_s:.0f} s"
        if file.isatty():
            file.write("\r\x1b[2K" + (f"{self._line}  {lasts_s:.0f} s" if self._line else text)[: _columns()])
            self._is_counting = True
        elif lasts_s >= self._next_s:
            self._next_s += _EVERY_S
            file.write(f"{text}\n")
        file.flush()

    def _end_line(self, file: TextIO) -> None:
        if self._is_counting:
            file.write(f"\r\x1b[2K{self._line}")
        if self._line:
            file.write("\n")
        self._line, self._is_counting = "", False

    def _guarded(self, show: Callable[[TextIO], None]) -> None:
        if self._file is None:
            return
        try:
            show(self._file)
        except OSError:  # closed pipe, terminal that is gone
            let_go(self._file)
            self._file = None


def line_width() -> int | None:
    """Returns the characters of a line of the standard output; None where it is no terminal."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if is_terminal else None


def _columns() -> int:
    return shutil.get_terminal_size().columns - 1


def _fitting(event: "TrialDone") -> str:
    """Returns the event's text, or a shorter one where the line would be broken: only a whole line can be redrawn."""
    text = printable(str(event))
    return text if len(text) <= _columns() else printable(event.brief)[: _columns()]


def watch(look: Callable[[], tuple[str, bool]], *, every_s: float = 1.0, file: TextIO | None = None) -> None:
    """Shows a text in place, which is looked at again and again until it changes no more.

    Args:
        look: Returns the text, and whether it may change.
        every_s: Seconds between two looks.
        file: The output; default: stdout. One that is no terminal gets the last text only.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=file)
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            text, goes_on = look()
            lines = "\n".join(map(printable, text.split("\n")))
            if live is not None:
                live.update(Text(lines, no_wrap=True, overflow="ellipsis"), refresh=True)
            if not goes_on:
                break
            time.sleep(every_s)
    if live is None:
        print(lines, file=console.file)


def let_go(stream: TextIO | None) -> None:
    """Lets what is still buffered for a stream that nobody reads go nowhere, so that the process ends quietly."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def _printable_lines(event: "Event") -> str:
    return "\n".join(map(printable, str(event).split("\n")))
