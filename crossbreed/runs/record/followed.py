"""A run's history, kept up with a journal that another process may be writing: what was read is not read again."""

import os
from pathlib import Path

from crossbreed.errors import InputError
from crossbreed.runs.record.history import History, begin
from crossbreed.runs.record.journal import records_after
from crossbreed.runs.record.records import RunRecord, TellRecord
from crossbreed.runs.record.uncollected import uncollected


class FollowedRun:
    """A journal and what follows from it. Not for several threads at once."""

    def __init__(self, path: Path, *, with_recipes: bool = True) -> None:
        """Nothing is read before the first `catch_up`.

        Args:
            path: The journal.
            with_recipes: False leaves out every recipe, which takes longer to read than all else.
        """
        self._path, self._with_recipes = path, with_recipes
        self._start()

    def _start(self) -> None:
        self._file, self._size, self._num_lines, self._last = (0, 0), 0, 0, b""
        self.begun: RunRecord | None = None
        """The first record."""
        self.history = History(item_ids={})
        self.told: list[int] = []
        """Numbers of the trials in the order in which they were scored on the search split; again if one had FAILED."""

    def catch_up(self) -> None:
        """Reads what was appended; all, if the journal is another or shorter than it was.

        Raises:
            InputError: the journal is damaged.
            OSError: it cannot be read.
        """
        try:
            self._read_on()
        except InputError:
            self._start()
            self._read_on()

    def _read_on(self) -> None:
        with self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            if (found.st_dev, found.st_ino) != self._file or found.st_size < self._size:
                self._start()
            self._file = found.st_dev, found.st_ino
            file.seek(self._size)
            lines = file.read().split(b"\n")[:-1]
        if not lines:
            return
        with uncollected():
            records = list(
                records_after(
                    lines,
                    self._path,
                    num_before=self._num_lines,
                    before=self._last,
                    with_recipes=self._with_recipes,
                )
            )
        if isinstance(first := records[0], RunRecord):
            self.begun, self.history = first, begin(first)
            del records[0]
        self.history.extend(records, first_line=max(1, self._num_lines) + 1)
        self.told += [r.number for r in records if isinstance(r, TellRecord) and r.split == "search"]
        self._size += sum(len(line) + 1 for line in lines)
        self._num_lines += len(lines)
        self._last = lines[-1]
