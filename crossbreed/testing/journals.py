"""Conformance tests for implementations of the journal: appended records are durable and read back unchanged.

Subclass `JournalConformance` in a test module and override its one fixture; pytest then checks the requirements of
`docs/journal.md`:

    class TestMine(JournalConformance):
        @pytest.fixture
        def open_journal(self) -> OpenJournal:
            return MyJournal
"""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar, Protocol, TypeAlias

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from crossbreed.errors import InputError, MachineError
from crossbreed.runs.record.records import EndRecord, Record
from crossbreed.testing.journal_records import RECORDS, RUN, lines, records


class AnyJournal(Protocol):
    """An open journal."""

    @property
    def records(self) -> Sequence[Record]:
        """The records that it held when it was opened."""
        ...

    def append(self, record: Record) -> None:
        """Writes a record and returns when it is durable."""
        ...

    def close(self) -> None:
        """Closes the file and releases the lock."""
        ...


OpenJournal: TypeAlias = Callable[[Path], AnyJournal]
"""Opens the journal at a path, which may not exist yet. Its folder exists."""


class JournalConformance:
    """The requirements. Override `open_journal`."""

    is_grouped: ClassVar[bool] = False
    """Whether an appended record may be in the file without an fsync until the journal is closed."""
    flips: ClassVar[int] = 500
    """Number of random bit flips to try."""
    examples: ClassVar[int] = 60
    """Number of random sequences of operations to try."""
    phases: ClassVar[tuple[Phase, ...]] = tuple(Phase)
    """What Hypothesis does with them."""

    @pytest.fixture
    def open_journal(self) -> OpenJournal:
        """Override: returns the function that opens a journal."""
        raise NotImplementedError

    def test_an_empty_journal_has_no_records(self, open_journal: OpenJournal, tmp_path: Path) -> None:
        """After closing, the file is empty or absent."""
        with _opened(open_journal, tmp_path / "journal.jsonl") as journal:
            assert list(journal.records) == []
        assert _content(tmp_path / "journal.jsonl") == b""

    def test_what_is_appended_is_read(self, open_journal: OpenJournal, tmp_path: Path) -> None:
        """The file holds one canonical line per record, in order."""
        path = _written(open_journal, tmp_path)
        assert path.read_bytes() == lines(RECORDS)
        with _opened(open_journal, path) as journal:
            assert tuple(journal.records) == RECORDS

    def test_a_kill_at_any_byte_loses_at_most_the_last_line(self, open_journal: OpenJournal, tmp_path: Path) -> None:
        """Whole lines are read; a torn line is cut before the next append."""
        content, path = lines(RECORDS), tmp_path / "journal.jsonl"
        for size in range(len(content) + 1):
            path.write_bytes(content[:size])
            with _without_delays(), _opened(open_journal, path) as journal:
                survived = tuple(journal.records)
                assert survived == RECORDS[: content[:size].count(b"\n")], f"cut after {size} bytes"
                for record in RECORDS[len(survived) :]:
                    journal.append(record)
            assert path.read_bytes() == content, f"cut after {size} bytes"

    def test_a_second_writer_is_refused_until_the_first_closes(self, open_journal: OpenJournal, tmp_path: Path) -> None:
        """Even before the first writes anything. Journals in other folders are independent."""
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        with _opened(open_journal, tmp_path / "a" / "journal.jsonl") as first:
            _refused(open_journal, tmp_path / "a" / "journal.jsonl")
            with _opened(open_journal, tmp_path / "b" / "journal.jsonl") as other:
                first.append(RUN)
                other.append(RUN)
        with _opened(open_journal, tmp_path / "a" / "journal.jsonl") as second:
            assert list(second.records) == [RUN]

    def test_a_killed_writer_leaves_records_and_no_lock(self, open_journal: OpenJournal, tmp_path: Path) -> None:
        """SIGKILL right after an append: the records survive and the lock is released."""
        path = tmp_path / "journal.jsonl"
        process = multiprocessing.get_context("fork").Process(target=_append_and_die, args=(open_journal, path))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with _opened(open_journal, path) as journal:
            assert tuple(journal.records) == RECORDS

    def test_append_returns_after_fsync(
        self, open_journal: OpenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`append` returns after fsync; in a grouped journal, after writing, and `close` calls fsync."""
        path = tmp_path / "journal.jsonl"
        synced = _watch_syncs(path, monkeypatch)
        journal = open_journal(path)
        try:
            for number, record in enumerate(RECORDS, start=1):
                journal.append(record)
                assert path.read_bytes() == lines(RECORDS[:number])
                assert self.is_grouped or synced[-1:] == [len(lines(RECORDS[:number]))], f"record {number}"
        finally:
            journal.close()
        assert synced[-1:] == [len(lines(RECORDS))]
        assert all(before <= after for before, after in pairwise(synced))

    @pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b'{"kind":"ask"}', b"\xff", b'{"kind":"mood"}'])
    def test_a_damaged_line_is_named_and_the_file_unchanged(
        self, open_journal: OpenJournal, tmp_path: Path, damage: bytes
    ) -> None:
        """A whole line that is not a valid record is refused: never skipped, cut or repaired."""
        path, content = tmp_path / "journal.jsonl", lines(RECORDS)
        for number in range(1, len(RECORDS) + 1):
            damaged = content.split(b"\n")
            damaged[number - 1] = damage
            path.write_bytes(b"\n".join(damaged))
            assert f"line {number}" in str(_refused(open_journal, path))
            assert path.read_bytes() == b"\n".join(damaged)
        path.write_bytes(content)
        with _opened(open_journal, path) as journal:  # the lock was released
            assert tuple(journal.records) == RECORDS

    def test_a_flipped_bit_is_noticed(self, open_journal: OpenJournal, tmp_path: Path) -> None:
        """Anywhere but in the end of the last line, which may be a torn one: the journal is refused."""
        path, content, rng = tmp_path / "journal.jsonl", lines(RECORDS), random.Random(5)
        for _ in range(self.flips):
            position, bit = rng.randrange(len(content) - 1), rng.randrange(8)
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            with _without_delays():
                _refused(open_journal, path)

    def test_lines_that_are_missing_doubled_or_moved_are_noticed(
        self, open_journal: OpenJournal, tmp_path: Path
    ) -> None:
        """Each line stands after the one that it was written after."""
        path, whole = tmp_path / "journal.jsonl", lines(RECORDS).splitlines(keepends=True)
        for number in range(1, len(whole)):
            for changed in (
                whole[: number - 1] + whole[number:],
                [*whole[:number], *whole[number - 1 :]],
                [*whole[: number - 1], whole[number], whole[number - 1], *whole[number + 1 :]],
            ):
                path.write_bytes(b"".join(changed))
                _refused(open_journal, path)

    def test_a_journal_that_others_change_is_not_written_to(self, open_journal: OpenJournal, tmp_path: Path) -> None:
        """Removed, replaced by a copy, renamed, emptied or appended to under its writer: MachineError."""
        path, aside = tmp_path / "journal.jsonl", tmp_path / "aside"
        changes: list[Callable[[], object]] = [
            path.unlink,
            lambda: (aside.write_bytes(path.read_bytes()), aside.replace(path)),
            lambda: path.rename(aside),
            lambda: os.truncate(path, 0),
            lambda: path.write_bytes(path.read_bytes() + b"{}\n"),
        ]
        for change in changes:
            path.unlink(missing_ok=True)
            with _opened(open_journal, path) as journal:
                journal.append(RUN)
                change()
                with pytest.raises(MachineError):
                    journal.append(EndRecord())

    @pytest.mark.parametrize("missing", [0, -1])
    def test_exactly_the_first_record_is_a_run(self, open_journal: OpenJournal, tmp_path: Path, missing: int) -> None:
        """A missing `run` or a second one is refused."""
        path = tmp_path / "journal.jsonl"
        path.write_bytes(lines(RECORDS[1:] if missing == 0 else (*RECORDS, RUN)))
        _refused(open_journal, path)

    def test_another_schema_is_refused(self, open_journal: OpenJournal, tmp_path: Path) -> None:
        """The message names the schema, and does not call the journal damaged."""
        path = tmp_path / "journal.jsonl"
        path.write_text(json.dumps({"kind": "run", "schema": 99}) + "\n")
        assert "schema 99" in str(_refused(open_journal, path))

    def test_any_sequence_of_operations(self, open_journal: OpenJournal, tmp_path: Path) -> None:
        """Append, reopen, truncate and damage in random order: the records read are those appended."""
        machine = type("Operations", (_Operations,), {"open": staticmethod(open_journal), "root": tmp_path})
        with _without_delays():
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=self.examples, stateful_step_count=15, deadline=None, phases=self.phases
                ),
            )


class _Operations(RuleBasedStateMachine):
    """A journal and the records that it is expected to hold."""

    open: ClassVar[OpenJournal]
    root: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(mkdtemp(dir=self.root)) / "journal.jsonl"
        self.expected: list[Record] = []
        self.journal: AnyJournal | None = type(self).open(self.path)

    @rule(record=records())
    def append(self, record: Record) -> None:
        """Appends a record; the first is always `RUN`."""
        self._append(record)

    @rule()
    def reopen(self) -> None:
        """Closes and opens."""
        self._close()
        self._open()

    @rule(part=st.floats(0, 1))
    def truncate(self, part: float) -> None:
        """Loses the end of the file, as in a power cut."""
        self._close()
        content = _content(self.path)
        left = content[: round(part * len(content))]
        self.path.write_bytes(left)
        del self.expected[left.count(b"\n") :]
        self._open()
        self._append(EndRecord())  # cuts the torn line

    @rule()
    def open_twice(self) -> None:
        """Refuses a second writer."""
        _refused(type(self).open, self.path)

    @precondition(lambda self: len(self.expected) > 1)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """Removes the last byte of a line, expects a refusal, restores the line."""
        self._close()
        content = self.path.read_bytes()
        number = data.draw(st.integers(1, len(self.expected)))
        damaged = content.split(b"\n")
        damaged[number - 1] = damaged[number - 1][:-1]
        self.path.write_bytes(b"\n".join(damaged))
        assert f"line {number}" in str(_refused(type(self).open, self.path))
        self.path.write_bytes(content)
        self._open()

    @invariant()
    def the_file_holds_the_expected_lines(self) -> None:
        """Checked after every operation."""
        assert _content(self.path) == lines(self.expected)

    def teardown(self) -> None:
        """Closes the file."""
        if self.journal is not None:
            self._close()

    def _append(self, record: Record) -> None:
        assert self.journal is not None
        self.expected.append(record if self.expected else RUN)
        self.journal.append(self.expected[-1])

    def _close(self) -> None:
        assert self.journal is not None
        journal, self.journal = self.journal, None
        journal.close()

    def _open(self) -> None:
        self.journal = type(self).open(self.path)
        assert list(self.journal.records) == self.expected


@contextmanager
def _without_delays() -> Iterator[None]:
    """Disables fsync and sleep, since these tests open thousands of journals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(os, "fdatasync", lambda descriptor: None)
        patch.setattr(time, "sleep", lambda seconds: None)
        yield


def _refused(open_journal: OpenJournal, path: Path) -> InputError:
    """Returns the InputError that opening a journal raises."""
    try:
        journal = open_journal(path)
    except InputError as error:
        return error
    journal.close()
    raise AssertionError("a journal was opened that must be refused")


@contextmanager
def _opened(open_journal: OpenJournal, path: Path) -> Iterator[AnyJournal]:
    journal = open_journal(path)
    try:
        yield journal
    finally:
        journal.close()


def _written(open_journal: OpenJournal, folder: Path) -> Path:
    path = folder / "journal.jsonl"
    with _opened(open_journal, path) as journal:
        for record in RECORDS:
            journal.append(record)
    return path


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _append_and_die(open_journal: OpenJournal, path: Path) -> None:
    journal = open_journal(path)
    for record in RECORDS:
        journal.append(record)
    os.kill(os.getpid(), signal.SIGKILL)


def _watch_syncs(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that receives the size of the file at each fsync of it."""
    synced: list[int] = []

    def watched(sync: Callable[[int], None]) -> Callable[[int], None]:
        def watch(descriptor: int) -> None:
            sync(descriptor)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                synced.append(path.stat().st_size)

        return watch

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    return synced
