import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossbreed.errors import InputError
from crossbreed.runs.journal import Journal, read, without_clock

RECORDS = [{"kind": "run", "schema": 1}, {"kind": "ask", "number": 0, "text": "é\n"}, {"kind": "tell", "number": 0}]


def written(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "journal.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for record in RECORDS:
        journal.append(record)
    journal.close()
    return path


def test_reads_what_was_appended(tmp_path: Path) -> None:
    assert list(read(written(tmp_path))) == RECORDS


@given(st.data())
def test_a_kill_at_any_byte_loses_at_most_the_last_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = written(tmp_path_factory.mktemp("journal"))
    content = path.read_bytes()
    size = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:size])
    journal = Journal(path)
    survived = list(journal.records)
    assert survived == RECORDS[: content[:size].count(b"\n")]
    for record in RECORDS[len(survived) :]:
        journal.append(record)
    journal.close()
    assert path.read_bytes() == content


def test_a_damaged_middle_names_the_line(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:-3]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="line 2"):
        list(read(path))


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps({"kind": "run", "schema": 99}) + "\n")
    with pytest.raises(InputError, match="schema 99"):
        list(read(path))


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(InputError, match="another driver"):
        Journal(tmp_path / "journal.jsonl")
    first.close()
    Journal(tmp_path / "journal.jsonl").close()


def test_equal_runs_differ_only_in_their_clock() -> None:
    assert without_clock([{"kind": "tell", "clock": {"elapsed": 1.0}}]) == [{"kind": "tell"}]


def test_grouped_records_are_in_the_file_at_once_and_synced_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    clock = iter([0.0, 0.0, 0.1, 0.3, 0.3])  # asked before and after each sync
    monkeypatch.setattr("crossbreed.runs.journal.time.monotonic", lambda: next(clock, 1.0))
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, group_s=0.2)
    monkeypatch.setattr("crossbreed.runs.journal.os.fsync", lambda _: synced.append(path.read_bytes().count(b"\n")))
    for record in RECORDS:
        journal.append(record)
    assert list(read(path)) == RECORDS
    assert synced == [1, 3]
    journal.close()
    assert synced == [1, 3, 3]
