"""What a service was when a run began: once it is another, its answers are not to be compared with those before.

A service says it of itself: content hashes of what changes answers and is no weight. It is noted in the run folder, for
the processes that go on and for workers beside this one, and compared whenever the service says it again: it may be
another in the middle of a run.
"""

from contextlib import suppress
from pathlib import Path

from crossbreed.errors import InputError
from crossbreed.fitness.services.appending import append_line, read_lines

HOST = "tokenizer, configuration or chat template"
ENGINE = "engine or its settings"


class Begun:
    """What is compared -> its content hash."""

    def __init__(self, url: str) -> None:
        """Knows nothing yet.

        Args:
            url: The service's address, for messages.
        """
        self._url, self._known = url, dict[str, str]()
        self._file: Path | None = None

    def keep_in(self, folder: Path, *, name: str = "service.jsonl") -> None:
        """Reads what earlier processes noted, and notes there what is new.

        Args:
            folder: The run's, for requests.
            name: The file's.
        """
        self._file = folder / name
        with suppress(OSError):  # runs of older versions
            self._known[HOST] = (folder / "host").read_text()
        self._read()

    def require(self, what: str, now: str) -> None:
        """Notes what the service says of itself for the first time.

        Args:
            what: What it says something of.
            now: A content hash; empty: it does not say.

        Raises:
            InputError: it said something else when the run began.
        """
        if not now:
            return
        if what not in self._known and self._file is not None:
            append_line(self._file, {"what": what, "now": now})
            self._read()  # another worker may have noted it before: the first one counts
        begun = self._known.setdefault(what, now)
        if begun != now:
            raise InputError(
                f"the service's {what} has changed since this run began",
                expected=begun,
                got=now,
                where=self._url,
                fix="begin a new run with another `--out`: its answers would not compare with these",
            )

    def _read(self) -> None:
        for line in () if self._file is None else read_lines(self._file):
            what, now = line.get("what"), line.get("now")
            if isinstance(what, str) and isinstance(now, str):
                self._known.setdefault(what, now)
