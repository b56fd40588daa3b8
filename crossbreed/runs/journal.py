"""The journal: the only state of a run. Everything else in the run folder can be rebuilt from it.

One JSON object a line, appended and fsynced by one writer; `docs/journal.md` specifies the format. Where a trial takes
milliseconds, an fsync for each would take longer than the trial: such journals are fsynced in groups. What a power cut
then loses is the end of the journal, never a part before it, and is asked again identically. The end of a group is
fsynced with the next record that comes: not before a long trial is over, so that journals of such are not grouped.
"""

import fcntl
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias

from crossbreed.durable import sync
from crossbreed.errors import InputError
from crossbreed.types import canonical_json

JOURNAL_SCHEMA = 1
Record: TypeAlias = dict[str, Any]
"""A JSON object with a `kind`."""
CLOCK = "clock"
"""The one key under which a record keeps what differs between equal runs: times, attempts, versions, worker."""


class Journal:
    """An open journal. Holds the run folder's lock: a second driver is refused until this one is closed or dies."""

    def __init__(self, path: Path, *, group_s: float = 0.0) -> None:
        """Opens a journal, new or not.

        Args:
            path: The file.
            group_s: A record that comes so many seconds after the last fsync is fsynced with those before it; 0 does it
                for each.
        """
        self._group_s, self._synced_s = group_s, -math.inf
        self._lock = _lock(path.with_name("lock"))
        try:
            self.records = tuple(read(path))
            _cut_torn_tail(path)
            self._file = path.open("ab")
            sync(path.parent)
        except BaseException:
            self._lock.close()
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line and returns once it is on the disk, or with the kernel when its group is not yet complete."""
        self._file.write(canonical_json(record).encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced_s >= self._group_s:
            self._sync()

    def close(self) -> None:
        """Closes the file and frees the lock, also when the disk is full."""
        try:
            self._sync()
            self._file.close()
        finally:
            self._lock.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced_s = time.monotonic()


def read(path: Path) -> Iterator[Record]:
    """Yields the whole records of a journal; a torn last line is not one.

    Raises:
        InputError: a line before the last is not a record, or the schema is not ours.
    """
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or "kind" not in record:
                raise ValueError("not an object with a kind")
        except ValueError as error:
            raise damaged(f"{path}, line {number}", f"{line[:60]!r} ({error})") from None
        if number == 1 and record["kind"] != "run":
            raise damaged(f"{path}, line 1", f"a record of kind {record['kind']!r} instead of `run`")
        if number == 1 and record.get("schema") != JOURNAL_SCHEMA:
            raise InputError(
                "the journal has another format",
                expected=f"schema {JOURNAL_SCHEMA}",
                got=f"schema {record.get('schema')}",
                where=str(path),
                fix="go on with the version of crossbreed that wrote it",
            )
        yield record


def damaged(where: str, got: str) -> InputError:
    """The error for a line that no kill can have left."""
    return InputError(
        "the journal is damaged",
        expected="one record a line, each after those that it speaks of",
        got=got,
        where=where,
        fix="restore it from a backup, or cut it before this line: the trials after it are answered again",
    )


def without_clock(records: Iterable[Record]) -> list[Record]:
    """Returns the records as two equal runs share them: times and retries aside."""
    return [{key: value for key, value in record.items() if key != CLOCK} for record in records]


def _cut_torn_tail(path: Path) -> None:
    """Cuts what a kill left of an unfinished last line, so that the next append starts a line of its own."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            os.fsync(file.fileno())


def _lock(path: Path) -> IO[str]:
    file = path.open("a")
    for _ in range(20):  # `show` looks at the lock for a moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # freed by the kernel, also after SIGKILL
            break
        except OSError:
            time.sleep(0.05)
    else:
        file.close()
        raise InputError(
            "another driver is working on this run folder",
            where=str(path.parent),
            fix="wait for it or stop it; two drivers would write one journal",
        )
    return file
