"""The journal: the only state of a run. Everything else in the run folder can be rebuilt from it.

One JSON object per line, appended and fsynced by one writer; `docs/journal.md` specifies the format. For trials of
milliseconds, an fsync per record would take longer than the trial: such journals are fsynced in groups. A power cut
then loses only the end of the journal, and the same candidates are evaluated again. The end of a group is fsynced only
with the next record, which can take as long as a trial, so journals with long trials are not grouped.
"""

import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from crossbreed.durable import naming, sync
from crossbreed.errors import InputError, MachineError, first_line
from crossbreed.runs.record.checksum import is_right, is_sealed, sealed
from crossbreed.runs.record.lock import Lock
from crossbreed.runs.record.records import (
    CLOCK,
    JOURNAL_SCHEMA,
    READABLE_SCHEMAS,
    Record,
    RunRecord,
    damaged,
    from_json,
    to_json,
)
from crossbreed.runs.record.uncollected import uncollected


class Journal:
    """An open journal. It holds the journal's lock, which keeps out other drivers until it is closed or dies."""

    def __init__(self, path: Path, *, group_s: float = 0.0, versions: Mapping[str, str] | None = None) -> None:
        """Opens a new or existing journal.

        Args:
            path: The file.
            group_s: Seconds after the last fsync from which on a record triggers the next one, for all records before
                it too; 0 syncs each record.
            versions: Package -> version of this driver. The first record that it adds to an existing journal notes
                them, and the host, under `clock`.

        Raises:
            InputError: another driver has it open, or it is damaged.
        """
        self._path, self._group_s, self._synced_s = path, group_s, -math.inf
        self._file = path.open("ab", buffering=0)
        try:
            self._lock = Lock(path, self._file.fileno())
            try:
                lines = _lines(path)
                with uncollected():
                    self.records = tuple(records_after(lines, path))
                self._last = lines[-1] if lines else b""
                self._size = sum(len(line) + 1 for line in lines)
                if self._size < os.fstat(self._file.fileno()).st_size:  # a kill has left an unfinished line
                    os.ftruncate(self._file.fileno(), self._size)
                    os.fsync(self._file.fileno())
                sync(path.parent)
            except BaseException:
                self._lock.close()
                raise
        except BaseException:
            self._file.close()
            raise
        self._driver = {"host": socket.gethostname(), "versions": dict(versions)} if versions and self.records else None

    @property
    def run(self) -> RunRecord | None:
        """The first record; None if the journal was empty when it was opened."""
        first = self.records[0] if self.records else None
        assert first is None or isinstance(first, RunRecord)
        return first

    def append(self, record: Record) -> None:
        """Writes one line, and returns when it is on disk or, if its group is not yet complete, with the kernel.

        Raises:
            MachineError: the journal was removed, replaced or written to by another process, or could not be read with
                this record, which is not written then.
        """
        self.require_untouched()
        line = self._line(record)
        self._write(line + b"\n")
        self._driver = None
        self._last = line
        if time.monotonic() - self._synced_s >= self._group_s:
            self._sync()

    def close(self) -> None:
        """Closes the file and frees the lock, even if the disk is full."""
        try:
            self._sync()
        finally:
            self._lock.close()
            self._file.close()

    def _line(self, record: Record) -> bytes:
        """Returns a record's line, which `read` accepts: a part's value of a wrong type must not end the run's life."""
        try:
            value = to_json(record)
            if self._driver is not None:
                value[CLOCK] = value.get(CLOCK, {}) | {"driver": self._driver}
            line = sealed(value, after=self._last)
            from_json(line)
        except (TypeError, ValueError, RecursionError) as error:
            raise MachineError(
                f"a record of kind `{record.kind}` was not written to the journal {self._path}, which nobody could "
                f"have read with it: {first_line(error)}. A part of the run (engine, task, optimizer or space) gave a "
                "value of a wrong type; what was measured before is kept"
            ) from error
        return line

    def _write(self, content: bytes) -> None:
        """Writes the content, or nothing of it: where the disk is full, it may have room for a part."""
        with naming(self._path):
            try:
                left = content
                while left:
                    left = left[self._file.write(left) :]
            except OSError:
                os.ftruncate(self._file.fileno(), self._size)
                raise
        self._size += len(content)

    def require_untouched(self) -> None:
        """Refuses to go on with a file that nobody will find, or that has other lines than those written here.

        Raises:
            MachineError: the journal was removed, replaced or written to by another process.
        """
        ours = os.fstat(self._file.fileno())
        try:
            is_there = os.path.samestat(ours, self._path.stat())
        except OSError:
            is_there = False
        if not is_there:
            raise MachineError(
                f"the journal {self._path} was removed or replaced while the run was writing to it. What has been "
                "measured since is lost; if its folder was renamed, run the same command with the new name as --out"
            )
        if ours.st_size != self._size:
            raise MachineError(
                f"the journal {self._path} was written to by another process: it has {ours.st_size} bytes instead of "
                f"{self._size}. Only one driver may use a run folder; if a copy was laid over it, run the same command "
                "again to go on from there"
            )

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced_s = time.monotonic()


def read(path: Path) -> Iterator[Record]:
    """Yields the complete records of a journal, a RunRecord first; skips a torn last line.

    Raises:
        InputError: a line before the last is not a record or not the one that was written, or the journal has another
            schema.
    """
    if path.exists():
        yield from records_after(_lines(path), path)


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


def records_after(
    lines: list[bytes], path: Path, *, num_before: int = 0, before: bytes = b"", with_recipes: bool = True
) -> Iterator[Record]:
    """Yields the records of lines that follow on others.

    Args:
        lines: Complete ones, without their ends.
        path: The journal, for messages.
        num_before: The number of lines before.
        before: The last of these; empty if there is none.
        with_recipes: See `from_json`.

    Raises:
        InputError: see `read`.
    """
    are_sealed = bool(before) and is_sealed(before)
    for number, line in enumerate(lines, start=num_before + 1):
        where = f"{path}, line {number}"
        if number == 1:
            _check_schema(line, path)
        try:
            record = from_json(line, with_recipes=with_recipes)
        except (ValueError, RecursionError) as error:
            raise damaged(where, f"{line[:60]!r} ({error})") from None
        if isinstance(record, RunRecord) is not (number == 1):
            raise damaged(where, f"a record of kind `{record.kind}`; exactly the first line has kind `run`")
        if is_right(line, after=before):
            are_sealed = True
        elif are_sealed or is_sealed(line):
            got = "a line that is not as it was written, or not where it was written: its checksum is wrong or absent"
            raise damaged(where, got)
        before = line
        yield record


def _check_schema(line: bytes, path: Path) -> None:
    """Raises InputError for another schema, whose records may have other fields."""
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        return  # reported as damaged
    if isinstance(head, dict) and head.get("kind") == "run" and head.get("schema") not in READABLE_SCHEMAS:
        raise InputError(
            "the journal has another format",
            expected=f"schema {JOURNAL_SCHEMA} or an older one",
            got=f"schema {str(head.get('schema'))[:60]}",
            where=str(path),
            fix="use the version of crossbreed that wrote it",
        )
