"""`crossbreed show --watch`: a run kept up to date in place. What was read of its journal is not read again."""

from pathlib import Path

from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.followed import FollowedRun
from crossbreed.runs.results.header import Header, read_header
from crossbreed.runs.results.live import Outlook, opening, outlook_of
from crossbreed.runs.results.show import run_of, show_text, text_of


class Watched:
    """A run folder that is looked at again and again."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self._folder, self._followed = RunFolder(path), FollowedRun(path / "journal.jsonl", with_recipes=False)
        self._known: Header | None = None
        self._outlook: Outlook | None = None

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
        if self._outlook is None or self._outlook.num_scores != len(history.scores):
            self._outlook = outlook_of(self._followed, self._known)
        run = run_of(self._folder, self._known, history, outlook=self._outlook)
        return text_of(run), run.state == "running"
