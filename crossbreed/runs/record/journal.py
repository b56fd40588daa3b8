"""The journal: the only state of a run. Everything else in the run folder can be rebuilt from it.

One JSON object per line, appended and fsynced by one writer; `docs/journal.md` specifies the format. For trials of
milliseconds, an fsync per record would take longer than the trial: such journals are fsynced in groups. A power cut
then loses only the end of the journal, and the same candidates are asked again. The end of a group is fsynced only with
the next record, which can take as long as a trial, so journals with long trials are not grouped.
"""

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from crossbreed.durable import sync
from crossbreed.errors import InputError
from crossbreed.runs.record.records import JOURNAL_SCHEMA, Record, RunRecord, damaged, from_json, to_json
from crossbreed.types import canonical_json


class Journal:
    """An open journal. It holds the run folder's lock, which keeps out other drivers until it is closed or dies."""

    def __init__(self, path: Path, *, group_s: float = 0.0) -> None:
        """Opens a new or existing journal.

        Args:
            path: The file.
            group_s: Seconds after the last fsync from which on a record triggers the next one, for all records before
                it too; 0 syncs each record.
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

    @property
    def run(self) -> RunRecord | None:
        """The first record; None if the journal was empty when it was opened."""
        first = self.records[0] if self.records else None
        assert first is None or isinstance(first, RunRecord)
        return first

    def append(self, record: Record) -> None:
        """Writes one line, and returns when it is on disk or, if its group is not yet complete, with the kernel."""
        self._file.write(canonical_json(to_json(record)).encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced_s >= self._group_s:
            self._sync()

    def close(self) -> None:
        """Closes the file and frees the lock, even if the disk is full."""
        try:
            self._sync()
            self._file.close()
        finally:
            self._lock.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced_s = time.monotonic()


def read(path: Path) -> Iterator[Record]:
    """Yields the complete records of a journal, a RunRecord first; skips a torn last line.

    Raises:
        InputError: a line before the last is not a record, or the journal has another schema.
    """
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        where = f"{path}, line {number}"
        if number == 1:
            _check_schema(line, path)
        try:
            record = from_json(line)
        except ValueError as error:
            raise damaged(where, f"{line[:60]!r} ({error})") from None
        if isinstance(record, RunRecord) is not (number == 1):
            raise damaged(where, f"a record of kind `{record.kind}`; exactly the first line has kind `run`")
        yield record


def _check_schema(line: bytes, path: Path) -> None:
    """Raises InputError for another schema, whose records may have other fields."""
    try:
        head = json.loads(line)
    except ValueError:
        return  # reported as damaged
    if isinstance(head, dict) and head.get("kind") == "run" and head.get("schema") != JOURNAL_SCHEMA:
        raise InputError(
            "the journal has another format",
            expected=f"schema {JOURNAL_SCHEMA}",
            got=f"schema {head.get('schema')}",
            where=str(path),
            fix="use the version of crossbreed that wrote it",
        )


def _cut_torn_tail(path: Path) -> None:
    """Removes an unfinished last line, left by a kill, so that the next append starts a new line."""
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
    for _ in range(20):  # `show` holds the lock for a moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # freed by the kernel, even after SIGKILL
            break
        except OSError:
            time.sleep(0.05)
    else:
        file.close()
        raise InputError(
            "another driver is using this run folder",
            where=str(path.parent),
            fix="wait for it or stop it: two drivers would write to the same journal",
        )
    return file
