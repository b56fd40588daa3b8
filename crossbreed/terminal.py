"""The output of the command line: events as they happen, and the findings of `check`."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from crossbreed.errors import printable
from crossbreed.runs.events import Event, ReportWritten, TrialDone
from crossbreed.runs.results.report_text import summary

if TYPE_CHECKING:
    from crossbreed.runs.check import Example, Findings


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


_SHOWN_GROUPS = 12
"""The most lines that `check` prints of groups."""
_SHOWN_CHARACTERS = 400
"""The most that it prints of a text whose likelihood is scored: such texts may be chapters."""


def _groups_lines(findings: "Findings") -> list[str]:
    """What shares coordinates: a line for each group, with one of its tensors."""
    shown, more = findings.groups[:_SHOWN_GROUPS], len(findings.groups) - _SHOWN_GROUPS
    width = max((len(group.label) for group in shown), default=0)
    lines = [
        f"  group   {group.label:{width}}  {_count(len(group.tensors), 'tensor')}, as {group.tensors[0]}"
        for group in shown
    ]
    lines += [f"  group   ... and {more} more"] if more > 0 else []
    if findings.unplaced:
        of = _count(len(findings.unplaced), "tensor")
        lines.append(f"  other   {of} of no known module type, as {findings.unplaced[0]}")
    return lines


def _example_lines(example: "Example") -> Iterator[str]:
    if example.prompt or not example.scored:
        yield repr(example.prompt)
    if example.scored:
        more = len(example.scored) - _SHOWN_CHARACTERS
        cut = f" and {more} characters more" if more > 0 else ""
        yield f"  text: {example.scored[:_SHOWN_CHARACTERS]!r}{cut}"
    if example.gold:
        yield f"  gold: {example.gold!r}"
    if example.answer is not None:
        yield f"  base: {'' if example.scored else f'{example.answer!r}, '}score {example.value:g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def findings_text(findings: "Findings") -> str:
    """Returns the output of `crossbreed check`."""
    plan = findings.plan
    lines = [plan.describe()]
    if gigabytes := plan.merged_bytes / 1e9:
        memory, disk = (f"{size / 1e9:.0f} GB" for size in (findings.memory_bytes, findings.free_disk_bytes))
        lines.append(f"  memory  {memory}; the engine holds {gigabytes:.2f} GB of weights and its cache")
        lines.append(f"  disk    {disk} free; publishing takes {gigabytes:.2f} GB")
    lines += [f"  note    {note}" for note in findings.notes]
    lines += _groups_lines(findings)
    for example in findings.examples:
        lines += ["", f"{example.task}, item {example.item_id}:", *_example_lines(example)]
    return "\n".join([*lines, "", "no problems found"])
