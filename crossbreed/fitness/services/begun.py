"""What a service was when a run began: once it is another, its answers are not to be compared with those before.

A service says it of itself: content hashes of what changes answers and is no weight. It is noted in the run folder, for
the processes that go on, and compared whenever the service says it again: it may be another in the middle of a run.
"""

import json
from contextlib import suppress
from pathlib import Path

from crossbreed.durable import write_atomically
from crossbreed.errors import InputError

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

    def keep_in(self, folder: Path, *, name: str = "service.json") -> None:
        """Reads what earlier processes noted, and notes there what is new.

        Args:
            folder: The run's, for requests.
            name: The file's.
        """
        self._file = folder / name
        with suppress(OSError):  # runs of older versions
            self._known[HOST] = (folder / "host").read_text()
        with suppress(OSError, ValueError, AttributeError):
            self._known |= {str(what): str(now) for what, now in json.loads(self._file.read_bytes()).items()}

    def require(self, what: str, now: str) -> None:
        """Notes what the service says of itself for the first time.

        Args:
            what: What it says something of.
            now: A content hash; empty: it does not say.

        Raises:
            InputError: it said something else when the run began.
        """
        begun = self._known.get(what, "")
        if begun and now and begun != now:
            raise InputError(
                f"the service's {what} has changed since this run began",
                expected=begun,
                got=now,
                where=self._url,
                fix="begin a new run with another `--out`: its answers would not compare with these",
            )
        if not now or begun:
            return
        self._known[what] = now
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps(self._known, indent=2).encode())
