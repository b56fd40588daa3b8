"""Journals pass the conformance tests, and the tests catch faulty journals."""

import errno
import json
import multiprocessing
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import Phase

from crossbreed.errors import InputError, MachineError
from crossbreed.runs.record.journal import Journal, read
from crossbreed.runs.record.lock import is_locked
from crossbreed.runs.record.records import Record, TellRecord
from crossbreed.testing.journal_records import RECORDS, RUN
from crossbreed.testing.journals import JournalConformance, OpenJournal


class TestJournal(JournalConformance):
    @pytest.fixture
    def open_journal(self) -> OpenJournal:
        return Journal


class TestGroupedJournal(JournalConformance):
    is_grouped: ClassVar[bool] = True

    @pytest.fixture
    def open_journal(self) -> OpenJournal:
        return partial(Journal, group_s=60.0)


SUITE = JournalConformance()


class _Unshrunk(JournalConformance):
    """The suite without the search for the shortest counterexample, for journals that are known to be faulty."""

    phases = (Phase.generate,)


class _Unsynced(Journal):
    """Never calls fsync."""

    def _sync(self) -> None:
        pass


class _Delayed(Journal):
    """Delays each record until the next one."""

    _waiting: Record | None = None

    def append(self, record: Record) -> None:
        if self._waiting is not None:
            super().append(self._waiting)
        self._waiting = record

    def close(self) -> None:
        if self._waiting is not None:
            super().append(self._waiting)
        super().close()


class _Unlocked(Journal):
    """Does not hold the lock."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock.close()


class _Repairing(Journal):
    """Removes damaged lines."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path)
        except InputError as error:
            if "line" not in error.where:
                raise
            damaged = int(error.where.rpartition(" ")[2])
            lines = path.read_bytes().split(b"\n")
            path.write_bytes(b"\n".join(lines[: damaged - 1] + lines[damaged:]))
            type(self).__init__(self, path)


class _Completing(Journal):
    """Completes a torn line with a newline instead of cutting it."""

    def __init__(self, path: Path) -> None:
        if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
            with path.open("ab") as file:
                file.write(b"\n")
        super().__init__(path)


class _Repeating(Journal):
    """Appends the records that it read once more when it is closed."""

    def close(self) -> None:
        for record in self.records[1:]:
            self.append(record)
        super().close()


@pytest.mark.parametrize("wrong", [_Unsynced, _Delayed])
def test_missing_fsync_is_caught(wrong: OpenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        SUITE.test_append_returns_after_fsync(wrong, tmp_path, monkeypatch)


def test_buffered_records_are_caught(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        SUITE.test_a_killed_writer_leaves_records_and_no_lock(_Delayed, tmp_path)


def test_a_missing_lock_is_caught(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="must be refused"):
        SUITE.test_a_second_writer_is_refused_until_the_first_closes(_Unlocked, tmp_path)


def test_skipping_damaged_lines_is_caught(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="must be refused"):
        SUITE.test_a_damaged_line_is_named_and_the_file_unchanged(_Repairing, tmp_path, damage=b"{")


def test_keeping_a_torn_line_is_caught(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="damaged"):
        SUITE.test_a_kill_at_any_byte_loses_at_most_the_last_line(_Completing, tmp_path)


@pytest.mark.parametrize("wrong", [_Delayed, _Unlocked, _Repairing, _Completing, _Repeating])
def test_random_operations_catch_faulty_journals(wrong: OpenJournal, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, InputError)):
        _Unshrunk().test_any_sequence_of_operations(wrong, tmp_path)


def test_the_run_is_the_first_record_of_an_opened_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    new = Journal(path)
    assert new.run is None
    new.append(RUN)
    new.close()
    opened = Journal(path)
    assert opened.run == RUN
    opened.close()


def test_grouped_records_are_in_the_file_at_once_and_synced_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    clock = iter([0.0, 0.0, 0.1, 0.2, 0.3, 0.3])  # asked before each sync that may be, and after each that was
    monkeypatch.setattr("crossbreed.runs.record.journal.time.monotonic", lambda: next(clock, 1.0))
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, group_s=0.25)
    monkeypatch.setattr(
        "crossbreed.runs.record.journal.os.fsync", lambda _: synced.append(path.read_bytes().count(b"\n"))
    )
    for record in RECORDS:
        journal.append(record)
    assert tuple(read(path)) == RECORDS
    assert synced == [1, 4]
    journal.close()
    assert synced == [1, 4, 4]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_has_one_writer_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The owner file of a process that has ended, as after a kill, keeps nobody out; one of another host does."""

    def unsupported(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("crossbreed.runs.record.lock.fcntl.flock", unsupported)
    SUITE.test_a_second_writer_is_refused_until_the_first_closes(Journal, tmp_path)
    path, owner = tmp_path / "journal.jsonl", tmp_path / "owner.json"
    assert not is_locked(path)
    ended = multiprocessing.get_context("fork").Process(target=_open_and_die, args=(path,))
    ended.start()
    ended.join()
    assert owner.exists()
    journal = Journal(path)
    assert is_locked(path)
    with pytest.raises(InputError, match="another driver"):
        Journal(path)
    journal.close()
    owner.write_text('{"host": "elsewhere", "pid": 1, "began": "1"}')
    with pytest.raises(InputError, match=f"remove {owner}"):
        Journal(path)


def _open_and_die(path: Path) -> None:
    Journal(path)
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_lock_is_the_journal_s_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["journal.jsonl"], "there is nothing else to remove"
    assert is_locked(tmp_path / "journal.jsonl")
    journal.close()
    assert not is_locked(tmp_path / "journal.jsonl")


def test_the_first_line_of_each_driver_names_its_versions(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for version in ("1", "2", "3"):
        journal = Journal(path, versions={"torch": version})
        for record in RECORDS[:1] if version == "1" else RECORDS[1:3] if version == "2" else RECORDS[3:]:
            journal.append(record)
        journal.close()
    clocks = [json.loads(line)["clock"] for line in path.read_text().splitlines()]
    assert [clock.get("driver", {}).get("versions") for clock in clocks] == [None, {"torch": "2"}, None, {"torch": "3"}]
    assert tuple(read(path)) == RECORDS


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": 2.5},
        {"tokens": 2.0},
        {"tokens": -500},
        {"fingerprint": 5},
        {"fingerprint": "\ud800"},
        {"slopes": (float("nan"),)},
        {"tasks": {"sums": ("1",)}},
        {"fingerprint": object()},
    ],
)
def test_a_record_that_could_not_be_read_is_not_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    told = next(record for record in RECORDS if isinstance(record, TellRecord))
    for record in RECORDS[:2]:
        journal.append(record)
    before = path.read_bytes()
    with pytest.raises(MachineError, match="a record of kind `tell` was not written to the journal"):
        journal.append(replace(told, **changes))
    assert path.read_bytes() == before
    journal.append(RECORDS[2])
    journal.close()
    assert tuple(read(path)) == RECORDS[:3]
