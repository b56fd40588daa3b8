"""A run that is looked at again and again, as `crossbreed show --watch` and the dashboard do. No line is read twice."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.followed import FollowedRun
from crossbreed.runs.record.records import RunRecord
from crossbreed.runs.results.header import Header, read_header
from crossbreed.runs.results.live import Outlook, opening, outlook_of
from crossbreed.runs.results.show import Run, is_driven, run_of, show_text, text_of


class OngoingRun:
    """A run folder and what was read of it so far."""

    def __init__(self, path: Path, *, with_recipes: bool = True) -> None:
        """Nothing is read yet; `with_recipes` is as for `open_run`."""
        self.folder = RunFolder(path)
        self.followed = FollowedRun(self.folder.journal, with_recipes=with_recipes)
        self._header: tuple[tuple[int, int, int], RunRecord | None, Header] | None = None
        self._outlook: tuple[tuple[Header, int, int, bool], Outlook] | None = None

    def now(self) -> Run:
        """Returns the run as it is now.

        Raises:
            InputError: it is not a run folder, or its spec or journal is damaged.
        """
        self.folder.existing()
        self.followed.catch_up()
        known = self._known()
        history = self.followed.history
        goes_on = is_driven(self.folder)
        key = known, len(history.scores), len(self.followed.told), goes_on  # what had FAILED is told again
        if self._outlook is None or self._outlook[0] != key:
            self._outlook = key, outlook_of(self.followed, known, goes_on=goes_on)
        return run_of(self.folder, known, history, outlook=self._outlook[1])

    def _known(self) -> Header:
        """Returns what the spec says, which may have another budget since the run goes on."""
        stamp = (0, 0, 0)
        with suppress(OSError):
            stat = self.folder.spec.stat()
            stamp = stat.st_ino, stat.st_size, stat.st_mtime_ns
        begun = self.followed.begun
        if self._header is None or self._header[0] != stamp or self._header[1] is not begun:
            self._header = stamp, begun, read_header(self.folder, begun)
        return self._header[2]


class Watched:
    """A run folder as `show --watch` asks for it."""

    def __init__(self, path: Path, *, width: Callable[[], int | None] = lambda: None) -> None:
        """Nothing is read yet.

        Args:
            path: The run folder.
            width: Returns the characters of a line at the moment; None: any number.
        """
        self._path, self._ongoing, self._width = path, OngoingRun(path, with_recipes=False), width

    def look(self) -> tuple[str, bool]:
        """Returns the text of `show`, and whether the run goes on.

        Raises:
            InputError: it is not a run folder, or its journal is damaged.
        """
        if opening(self._path):
            return show_text(self._path, width=self._width()), True
        run = self._ongoing.now()
        return text_of(run, width=self._width()), run.state == "running"
