import csv
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from crossbreed.errors import InputError, Mistakes
from crossbreed.fitness import Item, SplitConfig, check_disjoint, load_items, split_items
from crossbreed.fitness.item_files import BadItems

RECORDS = [{"id": "a", "q": "one", "n": "1"}, {"id": "b", "q": "two", "n": "2"}]
ITEMS = [Item(id=f"i{n:03}", fields={"n": n, "level": n % 4 == 0}) for n in range(100)]


def write_jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def test_three_formats_hold_the_same_items(tmp_path: Path) -> None:
    jsonl = write_jsonl(tmp_path / "x.jsonl", *RECORDS)
    with (tmp_path / "x.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, ["id", "q", "n"])
        rows.writeheader()
        rows.writerows(RECORDS)
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "x.parquet")
    expected = tuple(Item(id=record["id"], fields=record) for record in RECORDS)
    assert load_items(jsonl) == load_items(tmp_path / "x.csv") == load_items(tmp_path / "x.parquet") == expected


def test_an_item_without_id_is_named_by_its_content(tmp_path: Path) -> None:
    one = load_items(write_jsonl(tmp_path / "1.jsonl", {"q": "one", "n": 1}, {"q": "two"}))
    other = load_items(write_jsonl(tmp_path / "2.jsonl", {"q": "two"}, {"n": 1, "q": "one"}))
    assert [item.id for item in one] == [item.id for item in reversed(other)]
    assert one[0].id != one[1].id


@pytest.mark.parametrize(
    ("text", "problem", "where"),
    [
        ('{"q": 1}\n{"q": }\n', "a line is not JSON", "line 2"),
        ('{"q": 1}\n\n[1]\n', "a line is not a JSON object", "line 3"),
        ('{"q": NaN}\n', "an item holds a value that is not JSON", "line 1"),
        ('{"id": 1, "q": 1}\n{"q": 2}\n{"id": "1", "q": 3}\n', "two items have the same id", "lines 1 and 3"),
        ('{"id": 1, "q": 1}\n{"id": 2, "q": 1}\n', "two items have the same content", "lines 1 and 2"),
        ('{"q": 1}\n{"q": 2}\n{"q": 1}\n', "two items have the same content", "lines 1 and 3"),
        ("\n\n", "there are no items", "x.jsonl"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path, text: str, problem: str, where: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(InputError) as caught:
        load_items(tmp_path / "x.jsonl")
    assert caught.value.problem == problem
    assert caught.value.where.endswith(where)


def test_a_broken_file_of_json_names_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"q": 1}\n{"q": }\n')
    with pytest.raises(InputError) as caught:
        load_items(tmp_path / "x.jsonl")
    assert (caught.value.got, caught.value.where[-6:]) == ("Expecting value, at column 7", "line 2")


def test_an_excerpt_shows_that_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(
        '{"q": "' + "a" * 90 + '"}\n[' + "1, " * 90 + "2]\n" + '{"q": "' + "a" * 90 + '"}\n'
    )
    with pytest.raises(Mistakes) as caught:
        load_items(tmp_path / "x.jsonl")
    assert [error.got[-12:] for error in caught.value.errors] == [" 1, 1, 1 ...", "a ...` twice"]


def test_what_all_lines_have_alike_is_told_once(tmp_path: Path) -> None:
    texts = {
        "x.jsonl": "".join(f"{i}\n" for i in range(40)),
        "x.csv": "question;answer\n" + "".join(f"1 + {i},{i + 1}\n" for i in range(40)),
        "y.csv": "question,answer\n" + "".join(f"1 + {i},{i + 1},{i}\n" for i in range(40)),
    }
    fixes = {"x.csv": "divide header and rows alike: the header is divided by ';', this row by ','"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(BadItems) as caught:
            load_items(tmp_path / name)
        [error] = caught.value.errors
        assert (error.count, caught.value.count, caught.value.legible) == (1, 1, ())
        assert error.got.startswith("all 40 items alike; the first: ")
        assert error.where.endswith("line 2" if name.endswith("csv") else "line 1")
        assert error.fix == fixes.get(name, error.fix)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.count) == (str(caught.value), 1)


def test_what_nearly_all_lines_have_alike_is_told_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("".join(f"{i}\n" for i in range(40)) + '{"q": \n{"q": "good"}\n')
    with pytest.raises(BadItems) as caught:
        load_items(tmp_path / "x.jsonl")
    first, second = caught.value.errors
    assert first.got.startswith("40 of 42 items alike; the first: ")
    assert (second.problem, second.where[-8:], caught.value.count) == ("a line is not JSON", " line 41", 2)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_rows_tell_what_divides_a_header_with_several_marks(tmp_path: Path, mark: str) -> None:
    rows = [["question, in words", "answer"], *([f"a{i}, b", f'"{i},\n, c"'] for i in range(30))]
    (tmp_path / "x.csv").write_text("".join(f"{mark.join(row)}\n" for row in rows))
    items = load_items(tmp_path / "x.csv")
    assert [item.fields for item in items[:1]] == [{"question, in words": "a0, b", "answer": "0,\n, c"}]


def test_questions_of_one_id_are_not_deleted(tmp_path: Path) -> None:
    items = [{"id": "p1", "q": "1 + 1"}, {"id": "p1", "q": "1 + 2"}, {"id": "p2", "q": "1 + 3"}]
    with pytest.raises(InputError, match="same id") as caught:
        load_items(write_jsonl(tmp_path / "x.jsonl", *items))
    assert (
        caught.value.fix == "they are different questions: give each an `id` of its own, or call this field otherwise"
    )
    many = [{"id": f"p{i // 4}", "q": f"1 + {i}"} for i in range(40)]
    with pytest.raises(InputError, match="same id") as caught:
        load_items(write_jsonl(tmp_path / "y.jsonl", *many))
    assert (len(caught.value.errors), caught.value.count) == (1, 1)
    otherwise = [{"passage": item["id"], "q": item["q"]} for item in items]
    assert len(load_items(write_jsonl(tmp_path / "x.jsonl", *otherwise))) == 3


def test_all_bad_lines_of_a_file_are_told_up_to_five(tmp_path: Path) -> None:
    for name, good, bad in (("x.jsonl", '{"q": "%d"}', "%d"), ("x.csv", "%d,", "%d")):
        lines = ["q,"] * (name == "x.csv") + [(bad if i in (2, 5, 6, 7, 8, 9, 10) else good) % i for i in range(12)]
        (tmp_path / name).write_text("\n".join(lines))
        with pytest.raises(BadItems) as caught:
            load_items(tmp_path / name)
        first = 2 if name == "x.csv" else 1
        assert [error.where.rpartition(" ")[2] for error in caught.value.errors[:5]] == [
            str(first + i) for i in (2, 5, 6, 7, 8)
        ]
        assert caught.value.errors[5].problem == "and 2 more mistakes there"
        assert len(caught.value.legible) == 5
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("x.csv", b"q,n\none\n", "a row does not have as many cells as the header"),
        ("x.csv", b"q,n\none,1,2\n", "a row does not have as many cells as the header"),
        ("x.parquet", b"not parquet", "the file is not Parquet"),
        ("x.jsonl", b'{"q": "\xff"}', "the items are not text"),
        ("x.txt", b"", "items cannot be read from this kind of file"),
    ],
)
def test_files_that_are_not_what_they_say(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=problem):
        load_items(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_items(tmp_path / "x.jsonl")


COUNTS = SplitConfig(search=20, select=12, report=60)


def ids(split: Any) -> list[list[str]]:
    return [[item.id for item in part.items] for part in (split.search, split.select, split.report)]


@given(seed=st.integers(0, 2**32), order=st.permutations(range(30)))
def test_a_split_depends_on_the_seed_and_not_on_the_order_of_the_file(seed: int, order: list[int]) -> None:
    items, config = ITEMS[:30], SplitConfig(search=10, select=0.2, report=14)
    split = ids(split_items(items, config, seed=seed, task="sums"))
    assert split == ids(split_items([items[i] for i in order], config, seed=seed, task="sums"))
    assert split != ids(split_items(items, config, seed=seed + 1, task="sums"))
    assert list(map(len, split)) == [10, 6, 14]
    assert len({item_id for part in split for item_id in part}) == 30


def test_strata_are_shared_out_in_proportion() -> None:
    split = split_items(ITEMS, COUNTS, seed=1, task="sums", stratify="level")
    for part, size in ((split.search, 20), (split.select, 12), (split.report, 60)):
        counts = Counter(item.fields["level"] for item in part.items)
        assert abs(counts[True] - size / 4) <= 1


def test_too_few_items_says_how_many_are_needed() -> None:
    with pytest.raises(InputError) as caught:
        split_items(ITEMS[:91], COUNTS, seed=1, task="sums")
    assert "= 92 items" in caught.value.expected
    assert caught.value.got == "91 items"


def test_a_stratum_that_no_item_has() -> None:
    with pytest.raises(InputError, match="no field `language`"):
        split_items(ITEMS, COUNTS, seed=1, task="sums", stratify="language")


def test_two_tasks_over_one_file_are_parted_alike() -> None:
    items = tuple(Item(id=str(i), fields={"q": str(i)}) for i in range(30))
    config = SplitConfig(search=8, select=8, report=8)
    splits = {task: split_items(items, config, seed=1, task=task) for task in ("exact", "contains")}
    assert splits["exact"] == splits["contains"]
    check_disjoint(splits)


def test_an_item_that_another_task_searches_on_is_refused_in_a_report() -> None:
    config = SplitConfig(search=8, select=8, report=8)
    splits = {
        task: split_items(
            tuple(Item(id=f"{task}-{i}", fields={"id": f"{task}-{i}", "q": str(i)}) for i in range(24)),
            config,
            seed=1,
            task=task,
        )
        for task in ("red", "blue")
    }
    with pytest.raises(InputError, match="uses for search or selection"):
        check_disjoint(splits)


def test_items_stay_in_the_splits_that_they_are_meant_for() -> None:
    """Fractions are of those that a split may have; too few of them are said by split."""
    items = [
        Item(id=f"{n}", fields={"n": n}, splits=("report",) if n < 10 else ("search", "select")) for n in range(22)
    ]
    found = split_items(items, SplitConfig(search=0.5, select=4, report=0.3), seed=1, task="t")
    assert len(found.search.items) == 6
    assert len(found.report.items) == 3
    assert {item.splits for item in (*found.search.items, *found.select.items)} == {("search", "select")}
    assert {item.splits for item in found.report.items} == {("report",)}
    assert not {item.id for item in found.search.items} & {item.id for item in found.select.items}
    with pytest.raises(InputError, match="22 items: 12 for search, 12 for select, 10 for report"):
        split_items(items, SplitConfig(search=10, select=4, report=3), seed=1, task="t")
