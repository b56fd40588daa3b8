"""`crossbreed show --watch`: a run kept up to date in place. What was read of its journal is not read again."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.followed import FollowedRun
from crossbreed.runs.results.header import Header, read_header
from crossbreed.runs.results.live import opening, outlook_of
from crossbreed.runs.results.show import Run, run_of, show_text, text_of


class Watched:
    """A run folder that is looked at again and again."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self._folder, self._followed = RunFolder(path), FollowedRun(path / "journal.jsonl")
        self._known: Header | None = None
        self._run: Run | None = None

    def look(self) -> tuple[str, bool]:
        """Returns the text of `show`, and whether the run goes on.

        Raises:
            InputError: it is not a run folder, or its journal is damaged.
        """
        if opening(self._folder.path):
            return show_text(self._folder.path), True
        self._folder.existing()
        self._known = self._known or read_header(self._folder)
        self._followed.catch_up()
        history = self._followed.history
        is_new = self._run is None or self._run.outlook.num_scores != len(history.scores)
        outlook = outlook_of(history, self._known) if is_new or self._run is None else self._run.outlook
        self._run = run_of(self._folder, self._known, history, outlook=outlook)
        return text_of(self._run), self._run.state == "running"


def watch_run(
    path: Path, *, every_s: float = 1.0, console: Console | None = None, pause: Callable[[float], None] = time.sleep
) -> None:
    """Shows a run until it ends.

    Args:
        path: The run folder.
        every_s: Seconds between two looks.
        console: Where; default: stdout. One that is no terminal gets the last state only.
        pause: Waits between two looks.

    Raises:
        InputError: see `Watched.look`.
    """
    watched = Watched(path)
    text, goes_on = watched.look()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
            if not goes_on:
                return
            pause(every_s)
            text, goes_on = watched.look()
