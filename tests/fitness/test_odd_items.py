"""Odd files of items, each with its right value or its right refusal: never another value, never a traceback."""

import json
import os
import pickle
import stat
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from crossbreed.errors import InputError
from crossbreed.fitness import (
    ChoiceTask,
    GenerateTask,
    Item,
    SplitConfig,
    Task,
    TaskConfig,
    check_disjoint,
    load_items,
    load_tasks,
    questions_of,
    split_items,
)
from crossbreed.fitness.tasks.metrics import METRICS
from crossbreed.fitness.tasks.prompts import fill_prompt
from crossbreed.fitness.values import text_of
from crossbreed.runs.spec.overrides import apply_override
from crossbreed.yaml_files import read_yaml


def generate(path: Path, **changes: Any) -> GenerateTask:
    settings = {"name": "t", "items": str(path), "prompt": "{q} =", "answer": "a", **changes}
    return GenerateTask(kind="generate", **settings)


def choice(path: Path, **changes: Any) -> ChoiceTask:
    settings = {"name": "t", "items": str(path), "prompt": "{q}:", "answer": "a", "choices": "o", **changes}
    return ChoiceTask(kind="choice", **settings)


def lines(tmp_path: Path, *texts: str, name: str = "x.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def first_of(config: TaskConfig) -> tuple[str, str]:
    """Returns the prompt and the gold of a task's first item."""
    [task] = load_tasks([config])
    return task.requests(task.items[0])[0].prompt.text, task.kind.shown(task.items[0])


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("1e3", "1e3"),
        ("1.0", "1.0"),
        ("1.10", "1.10"),
        ("1e16", "1e16"),
        ("2e-05", "2e-05"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ('"007"', "007"),
        ('["Paris", "paris"]', "Paris"),
        ("[46, 46.0]", "46"),
    ],
)
def test_a_value_is_shown_as_it_is_written(tmp_path: Path, written: str, shown: str) -> None:
    path = lines(tmp_path, f'{{"q": "Say it.", "a": {written}}}')
    assert first_of(generate(path)) == ("Say it. =", shown)
    if "[" not in written:
        path = lines(tmp_path, f'{{"q": {written}, "a": "1"}}')
        assert first_of(generate(path)) == (f"{shown} =", "1")


@pytest.mark.parametrize(
    "gold", ["null", "true", "{}", '{"value": "Paris"}', "[]", "[null]", '[["a"]]', '""', "[true]"]
)
def test_a_gold_that_is_no_text_is_refused_with_its_line(tmp_path: Path, gold: str) -> None:
    path = lines(tmp_path, '{"q": "1 + 1", "a": "2"}', f'{{"q": "1 + 2", "a": {gold}}}')
    with pytest.raises(InputError, match="can never be given") as caught:
        load_tasks([generate(path)])
    assert caught.value.where == f"task `t`, field `a`, {path}, line 2"


@pytest.mark.parametrize("name", ["a ", " a", "\u00a0a", "A"])
def test_a_field_that_looks_like_another_is_named_so_that_one_sees_it(tmp_path: Path, name: str) -> None:
    path = lines(tmp_path, json.dumps({"q ": "1 + 1", name: "2"}))
    prompt = "{q } ="
    with pytest.raises(InputError, match="no field `a`") as caught:
        load_tasks([generate(path, prompt=prompt)])
    written = json.dumps(name, ensure_ascii=False)
    assert caught.value.fix == f"the file has it as {written}: write it so in the task, or rename it there"
    assert (repr(name) if name != "A" else "A") in caught.value.got.split(", ")
    answer = read_yaml(written, what="answer", where="x")
    assert first_of(generate(path, prompt=prompt, answer=answer)) == ("1 + 1 =", "2")
    with pytest.raises(InputError, match="no field `q`") as caught:
        load_tasks([generate(path, answer=name)])
    assert caught.value.fix.startswith('the file has it as "q ": ')


def test_a_decimal_comma_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path, "q;a", "Germany;83,2", "Malta;0,5", name="x.csv")
    with pytest.raises(InputError) as caught:
        load_tasks([generate(path, metric="number")])
    assert caught.value.fix == "a comma divides thousands: write decimals after a point, as in 83.2"
    assert caught.value.got == "all 2 items alike; the first: '83,2'"


def test_an_option_column_that_is_empty_is_told_once(tmp_path: Path) -> None:
    path = lines(tmp_path, "q,A,B,C,a", *(f"{i},x{i},y{i},,A" for i in range(30)), name="x.csv")
    with pytest.raises(InputError, match="an empty option") as caught:
        load_tasks([choice(path, choices=["A", "B", "C"])])
    assert (caught.value.count, len(caught.value.errors)) == (1, 1)
    assert caught.value.got == "all 30 items alike; the first: an empty option in ['x0', 'y0', '']"


@pytest.mark.parametrize("question", ["", "  ", "\\u00a0"])
def test_an_item_that_asks_nothing_is_refused(tmp_path: Path, question: str) -> None:
    path = lines(tmp_path, '{"q": "1 + 1", "c": "", "a": "2"}', f'{{"q": "{question}", "c": "", "a": "3"}}')
    with pytest.raises(InputError, match="asks nothing") as caught:
        load_tasks([generate(path)])
    assert caught.value.where == f"task `t`, field `q`, {path}, line 2"
    assert first_of(generate(lines(tmp_path, '{"q": "1 + 1", "c": "", "a": "2"}'), prompt="{c}{q} ="))[0] == "1 + 1 ="


@pytest.mark.parametrize("value", ["null", "true", "{}", "[1]"])
def test_a_field_that_is_no_text_is_not_shown(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError, match="cannot be shown in the prompt") as caught:
        load_tasks([generate(lines(tmp_path, f'{{"q": {value}, "a": "2"}}'))])
    assert "field `q`" in caught.value.where


def test_any_text_of_a_list_counts(tmp_path: Path) -> None:
    path = lines(tmp_path, '{"q": "1", "a": ["Paris", "City of Light"]}')
    for metric, text in (("exact_match", "City of Light"), ("contains", "the City of Light!")):
        [task] = load_tasks([generate(path, metric=metric)])
        right, wrong = (
            task.score(task.items[0], [_said(said)]).value for said in (text, "['Paris', 'City of Light']"[2:5])
        )
        assert (right, wrong) == (1, 0)


def _said(text: str) -> Any:
    from crossbreed.fitness import Response

    return Response(text=text, token_ids=(), logprobs=(), prompt_tokens=1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"q": "a", "q": "b"}', "a line cannot be read"),
        ('{"q": {"x": 1, "x": 2}}', "a line cannot be read"),
        ('{"q": ' + "9" * 5000 + "}", "a line cannot be read"),
        ('{"q": ' + "[" * 100_000 + "]" * 100_000 + "}", "a line cannot be read"),
        ('{"q": 1e999}', "holds a value that is not JSON"),
        ('{"q": "\\ud800"}', "holds a text that is not JSON"),
        ('{"id": "\\ud800", "q": "a"}', "holds a text that is not JSON"),
        ('{"id": ["a"], "q": "a"}', "id is not a text"),
    ],
)
def test_json_lines_that_cannot_be_read(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        load_items(lines(tmp_path, text))
    assert caught.value.where.endswith("line 1")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (",q,a\n0,one,1\n1,two,2\n", {"q": "one", "a": "1"}),  # df.to_csv()
        ("\ufeffq,a\none,1\n", {"q": "one", "a": "1"}),
        ("q;a\none, two;1\n", {"q": "one, two", "a": "1"}),
        ("q\ta\none\t1\n", {"q": "one", "a": "1"}),
        ("q,a,\none,1,\n", {"q": "one", "a": "1"}),
        ('q,a\n"one\ntwo",1\n', {"q": "one\ntwo", "a": "1"}),
        ("q,a\n\none,007\n", {"q": "one", "a": "007"}),
        (f"q,a\n{'x' * 200_000},1\n", {"q": "x" * 200_000, "a": "1"}),
    ],
)
def test_csv_as_it_is_met(tmp_path: Path, text: str, fields: dict[str, str]) -> None:
    (tmp_path / "x.csv").write_text(text, encoding="utf-8", newline="")
    assert load_items(tmp_path / "x.csv")[0].fields == fields


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("q,q\n1,2\n", "two columns have the same name"),
        ("q,,a\n1,red,2\n", "a column has no name"),
        ('q,a\n"one,1\ntwo,2\n', "the file is not CSV"),
        ('q,a\n"one"x,1\n', "the file is not CSV"),
        ("q,a\none,1,2\n", "as many cells as the header"),
        ("q,a\n", "there are no items"),
        ("", "there are no items"),
    ],
)
def test_csv_that_cannot_be_read(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=problem):
        load_items(tmp_path / "x.csv")


def test_parquet_doubles_are_shown_where_their_notation_is_known(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = {"q": ["a", "b"], "a": [0.1, 46.0], "short": pyarrow.array([0.1, 0.2], pyarrow.float32())}
    parquet.write_table(pyarrow.table(table), path)
    items = load_items(path)
    assert Task(kind=generate(path), items=items[:1]).kind.shown(items[0]) == "0.1"
    assert generate(path, answer="short").shown(items[0]) == "0.1"
    assert generate(path, metric="number").shown(items[1]) == "46.0"
    with pytest.raises(InputError, match="can never be given") as caught:
        load_tasks([generate(path)])
    assert "46.0, whose notation a Parquet file does not tell" in caught.value.got


WRITTEN = [
    (pyarrow.array([0.1], pyarrow.float16()), "0.1"),
    (pyarrow.array([0.1], pyarrow.float32()).dictionary_encode(), "0.1"),
    (pyarrow.array([1], pyarrow.uint8()), "1"),
    (pyarrow.array([Decimal("1.25")], pyarrow.decimal128(10, 2)), "1.25"),
    (pyarrow.array([Decimal("7")], pyarrow.decimal128(30, 0)), "7"),
    (pyarrow.array([date(2024, 7, 26)]), "2024-07-26"),
    (pyarrow.array(["a"], pyarrow.large_string()), "a"),
    (pyarrow.array(["a"]).dictionary_encode(), "a"),
]
UNKNOWN = [
    (pyarrow.array([46.0], pyarrow.float16()), "the floating-point number 46.0"),
    (pyarrow.array([Decimal("1.50")], pyarrow.decimal128(10, 2)), "the floating-point number 1.5"),
    (pyarrow.array([1721952000000000001], pyarrow.timestamp("ns")), "an object: {'timestamp[ns]'"),
    (pyarrow.array([1], pyarrow.timestamp("us", "Europe/Berlin")), "an object: {'timestamp[us, tz=Europe/Berlin]'"),
    (pyarrow.array([1], pyarrow.time64("ns")), "an object"),
    (pyarrow.array([1], pyarrow.duration("ns")), "an object"),
    (pyarrow.array([5_000_000], pyarrow.date32()), "an object"),
    (pyarrow.array([b"\xff"]), "an object: {'binary'"),
    (pyarrow.nulls(1, pyarrow.string()), "null"),
    (pyarrow.nulls(1), "null"),
]


def parquet_file(folder: Path, column: pyarrow.Array) -> Path:
    parquet.write_table(pyarrow.table({"q": ["why"], "a": column}), folder / "x.parquet")
    return folder / "x.parquet"


@pytest.mark.parametrize(("column", "text"), WRITTEN)
def test_a_cell_of_parquet_is_shown_by_its_type(tmp_path: Path, column: pyarrow.Array, text: str) -> None:
    path = parquet_file(tmp_path, column)
    assert generate(path).shown(load_items(path)[0]) == text
    assert fill_prompt("{a}", load_items(path)[0], task="t") == text


@pytest.mark.parametrize(("column", "got"), UNKNOWN)
def test_a_cell_of_parquet_without_one_text_is_refused_only_where_it_is_shown(
    tmp_path: Path, column: pyarrow.Array, got: str
) -> None:
    [item] = load_items(parquet_file(tmp_path, column))
    assert fill_prompt("{q}", item, task="t") == "why"
    with pytest.raises(InputError, match="cannot be shown in the prompt") as caught:
        fill_prompt("{a}", item, task="t")
    assert caught.value.got.startswith(got)


def test_cells_inside_others_are_read_by_their_types_too(tmp_path: Path) -> None:
    inner = pyarrow.struct([("x", pyarrow.float32()), ("y", pyarrow.list_(pyarrow.float16())), ("z", pyarrow.string())])
    [item] = load_items(parquet_file(tmp_path, pyarrow.array([{"x": 0.1, "y": [0.2, None], "z": None}], inner)))
    found = item.fields["a"]
    assert isinstance(found, dict)
    assert isinstance(found["y"], list)
    assert (text_of(found["x"]), text_of(found["y"][0]), found["y"][1], found["z"]) == ("0.1", "0.2", None, None)


def test_items_that_differ_in_an_image_alone_are_two_items(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"q": ["what?"] * 2, "image": [b"one", b"two"]}), tmp_path / "x.parquet")
    assert len(load_items(tmp_path / "x.parquet")) == 2


@pytest.mark.timeout(20)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
def test_items_that_are_no_file_are_refused_before_anybody_waits(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"x{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mknod(path, stat.S_IFSOCK | 0o600)
    with pytest.raises(InputError, match="the items are no file") as caught:
        load_items(path)
    assert caught.value.where == str(path)


def test_items_keep_their_ids_and_travel(tmp_path: Path) -> None:
    [item] = load_items(lines(tmp_path, '{"q": 1e3, "a": [2.50]}'))
    [plain] = load_items(lines(tmp_path, '{"q": 1000.0, "a": [2.5]}'))
    assert (item.id, item.fields) == (plain.id, plain.fields)
    task = generate(tmp_path / "x.jsonl")
    assert task.render(pickle.loads(pickle.dumps(item))) == task.render(item)


def test_the_notation_of_a_number_is_part_of_a_task_s_contents(tmp_path: Path) -> None:
    def contents(*texts: str) -> str:
        return Task(kind=generate(tmp_path), items=load_items(lines(tmp_path, *texts))).contents_id

    plain = contents('{"id": "1", "q": 1.1, "a": [1000.0, {"x": 2}]}')
    assert contents('{"id": "1", "q": 1.10, "a": [1000.0, {"x": 2}]}') != plain
    assert contents('{"id": "1", "q": 1.1, "a": [1e3, {"x": 2}]}') != plain
    unwritten = Item(id="1", fields={"id": "1", "q": 1.1, "a": [1000.0, {"x": 2}]})
    assert Task(kind=generate(tmp_path), items=(unwritten,)).contents_id == plain


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("10000000000000000", "1e+16", True),
        ("16", "1e+16", False),
        ("0.00002", "2e-05", True),
        ("5", "2e-05", False),
        (".5", "0.5", True),
        ("5", ".5", False),
        ("2", "1/2", False),
        ("\u22125", "-5", True),
        ("5", "\u22125", False),
        ("-$5", "-5", True),
        ("1/2", "0.5", True),
        ("1 1/2", "0.5", False),
        ("1 1/2", "1.5", True),
        (r"\frac{1}{2}", "2", False),
        ("1/0", "0", False),
        ("version 1.2.3", "3", False),
        ("12:30", "30", False),
        ("2024-05-01", "1", False),
        ("0x1F", "1", False),
        ("2\u00b3", "2", False),
        ("1.2e3 km", "1200", True),
        ("1e99999999999999999999", "1", False),
        ("1'234'567", "1234567", True),
        ("1\u202f234", "1234", True),
        ("it is.5", "5", True),
        ("so ...5", "5", True),
        ("48/2=24", "48 / 2 = 24 #### 24", True),
        ("It costs 5/day", "5", True),
        ("**12**", "12", True),
        ("1 000", "1000", True),
        ("1 000", "0", False),
        ("1 234 056.5 km", "1234056.5", True),
        ("12 345", "345", False),
        ("in 2020 5", "5", True),
        ("1 000/2", "2", False),
        ("3 or \u00bd", "3", False),
        ("3 or \u2153", "3", False),
    ],
)
def test_numbers_are_read_whole(text: str, gold: str, right: bool) -> None:
    assert METRICS["number"](text, gold) is right


@pytest.mark.parametrize(
    "gold", ["1/2", "10^3", "3 or 4", "seven", "2024-05-01", "1.2.3", "2\u00b2", "1.234,5", "12:30"]
)
def test_a_gold_that_is_not_one_number_can_never_be_given(tmp_path: Path, gold: str) -> None:
    with pytest.raises(InputError, match="can never be given"):
        load_tasks([generate(lines(tmp_path, json.dumps({"q": "1", "a": gold})), metric="number")])


def test_texts_are_compared_in_one_normal_form() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for metric in ("exact_match", "contains"):
        assert METRICS[metric](composed, decomposed)
        assert METRICS[metric](decomposed, composed)
        assert not METRICS[metric]("Caf\u00e9", composed)


@pytest.mark.parametrize(
    ("options", "gold", "settings", "shown"),
    [
        (["1", "2", "3", "4"], 4, {}, "4"),
        ([1, 2, 3, 4], 4, {}, "4"),
        ([1.5, 2.5], 2.5, {}, "2.5"),
        ([1, 2, 3, 4], 2, {"gold_is": "text"}, "2"),
        ([1, 2, 3, 4], 2, {"gold_is": "index"}, "3"),
        (["x", "y"], 2, {"gold_is": "index_from_1"}, "y"),
        (["x", "y"], "B", {}, "y"),
        (["B", "A"], "B", {}, "B"),
        (["cafe\u0301", "tea"], "caf\u00e9", {}, "cafe\u0301"),
        (["x", "y"], 1.0, {"gold_is": "index"}, "y"),
        (["x", "y"], 1.0, {"gold_is": "index_from_1"}, "x"),
        (["x", "y"], 0.0, {}, "x"),
    ],
)
def test_the_gold_option(tmp_path: Path, options: list[Any], gold: Any, settings: dict[str, Any], shown: str) -> None:
    path = lines(tmp_path, json.dumps({"q": "1", "o": options, "a": gold}))
    assert first_of(choice(path, **settings))[1] == shown


@pytest.mark.parametrize(
    ("options", "gold", "problem"),
    [
        ([1, 2, 3, 4], 2, "can be read in two ways"),
        (["2", "3", "1"], 1, "can be read in two ways"),
        (["x", "y"], 2, "index_from_1"),
        (["x", "y"], True, "can never be given"),
        (["x", "y"], ["x"], "one right answer"),
        (["x", "x"], "x", "an option twice"),
        (["x", None], "x", "null"),
        (["x", ["y"]], "x", "a list"),
        (["x", " "], "x", "an empty option"),
        (["x", "y"], "\u00df", "can never be given"),
        (["x", "y"], "9" * 5000, "can never be given"),
    ],
)
def test_options_without_one_gold(tmp_path: Path, options: list[Any], gold: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        load_tasks([choice(lines(tmp_path, json.dumps({"q": "1", "o": options, "a": gold})))])


@pytest.mark.parametrize(
    ("options", "golds", "shown"),
    [
        ([["10", "20"], ["10", "20"]], ["20", "1"], None),
        ([["x", "y"], ["B", "A"]], ["B", "B"], None),
        ([["x", "y"], ["x", "y"]], ["x", 1], None),
        ([["x", "y"], [0, 1]], [1, 0], ["y", "0"]),
        ([["x", "y"], ["x", "y"]], [1, "0"], ["y", "x"]),
    ],
)
def test_one_way_of_naming_the_gold_option_fits_all_items(
    tmp_path: Path, options: list[Any], golds: list[Any], shown: list[str] | None
) -> None:
    rows = [{"q": f"{i}", "o": o, "a": a} for i, (o, a) in enumerate(zip(options, golds, strict=True))]
    config = choice(lines(tmp_path, *map(json.dumps, rows)))
    if shown:
        [task] = load_tasks([config])
        assert [task.kind.shown(item) for item in task.items] == shown
        return
    with pytest.raises(InputError, match="in different ways") as caught:
        load_tasks([config])
    assert caught.value.where.endswith("line 2")


INDICES = "can be read in two ways"


@pytest.mark.parametrize(
    ("golds", "problem"),
    [
        ([1, 2, 1], INDICES),
        (["1", "2", "2"], INDICES),
        ([2], INDICES),
        ([1, 2, 3], "can never be given"),
        ([0, 1, 2], ""),
        ([2, 1, 0], ""),
    ],
)
def test_indices_that_may_count_from_0_or_1_are_refused_until_it_is_said(
    tmp_path: Path, golds: list[Any], problem: str
) -> None:
    rows = [{"q": f"{i}", "o": ["x", "y", "z"], "a": gold} for i, gold in enumerate(golds)]
    path = lines(tmp_path, *map(json.dumps, rows))

    def shown(**settings: Any) -> list[str]:
        [task] = load_tasks([choice(path, **settings)])
        return [task.kind.shown(item) for item in task.items]

    if not problem:
        assert shown() == ["xyz"[gold] for gold in golds]
        return
    with pytest.raises(InputError, match=problem) as caught:
        shown()
    assert "gold_is: index_from_1" in caught.value.fix
    assert shown(gold_is="index_from_1") == ["xyz"[int(gold) - 1] for gold in golds]
    if problem == INDICES:
        assert "`gold_is: index`" in caught.value.fix
        assert caught.value.where.endswith("line 1")
        assert shown(gold_is="index") == ["xyz"[int(gold)] for gold in golds]


def test_an_index_that_is_an_option_too_is_that_option(tmp_path: Path) -> None:
    rows = [{"q": f"{i}", "o": ["0", "1", "2"], "a": 1} for i in range(2)]
    assert first_of(choice(lines(tmp_path, *map(json.dumps, rows))))[1] == "1"


def test_options_in_columns_are_named_by_their_letters(tmp_path: Path) -> None:
    path = lines(tmp_path, "q,A,B,C,D,a", "1 + 1,1,2,3,4,B", "1 + 2,1,2,3,4,C", name="x.csv")
    [task] = load_tasks([choice(path, choices=["A", "B", "C", "D"])])
    assert [task.kind.shown(item) for item in task.items] == ["2", "3"]


@pytest.mark.parametrize(
    ("prompt", "problem", "fix"),
    [
        ("Question: {{q}}", "the prompt has no field", "fields are written {q}, not {{q}}"),
        ("Question: q", "the prompt has no field", "name the field of the question"),
        ('JSON like {"answer": 1}. {q}', "a brace that begins no field", "{{ and }}"),
        ("{} {q}", "a brace that begins no field", "{{ and }}"),
        (r"\frac{1}{2} {q}", "a brace that begins no field", "{{ and }}"),
        ("{day} {q}", "has no field `day`", "{{ and }}"),
        ("{q.upper}", "cannot be shown", ""),
    ],
)
def test_prompts_that_do_not_ask(tmp_path: Path, prompt: str, problem: str, fix: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        load_tasks([generate(lines(tmp_path, '{"q": "1", "a": "2"}'), prompt=prompt)])
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "prompt", ["{q:>9999999999}", "{q:.10001}", "{q!r:>10001}", "{n:0{big}}", "{n:.{big}f}", "{n:{n}{big}}"]
)
def test_a_width_that_fills_the_memory_is_refused(prompt: str) -> None:
    item = Item(id="1", fields={"q": "a", "n": 2, "big": 99999999999})
    with pytest.raises(InputError, match="too large a width or precision"):
        fill_prompt(prompt, item, task="t")


def test_a_width_of_a_table_is_kept() -> None:
    item = Item(id="1", fields={"q": "a", "n": 2.5, "wide": 4})
    assert fill_prompt("{q:9<{wide}}|{n:>6.2f}|{n!r:5}", item, task="t") == "a999|  2.50|2.5  "
    assert len(fill_prompt("{q:>10000}", item, task="t")) == 10_000


@pytest.mark.parametrize("advised", ['JSON like {{"answer": 1}}. {q}', "{{}} {q}", r"\frac{{1}}{{2}} {q}"])
def test_the_advice_for_braces_works(tmp_path: Path, advised: str) -> None:
    path = lines(tmp_path, '{"q": "1", "a": "2"}')
    shown = first_of(generate(path, prompt=advised))[0]
    assert shown == advised.replace("{{", "{").replace("}}", "}").replace("{q}", "1")


def test_nothing_is_added_after_white_space(tmp_path: Path) -> None:
    path = lines(tmp_path, '{"q": "2", "o": ["x", "y"], "a": "x"}')
    shots = [{"q": "1", "o": ["x", "y"], "a": "y"}]
    for prompt, expected, option in (("{q} A: ", "1 A: y\n\n2 A: ", "x"), ("{q}:", "1: y\n\n2:", " x")):
        [task] = load_tasks([choice(path, prompt=prompt, few_shot=shots)])
        request: Any = task.requests(task.items[0])[0]
        assert (request.prompt.text, request.continuation) == (expected, option)


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
ANSWERED = [*CHAT, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "1 + 1?"}]


def test_chats_become_turns(tmp_path: Path) -> None:
    path = lines(tmp_path, json.dumps({"m": ANSWERED, "a": "2"}))
    [task] = load_tasks([generate(path, prompt="", messages="m", chat_template=True)])
    prompt = task.requests(task.items[0])[0].prompt
    assert (prompt.system, prompt.text, prompt.chat) == ("Be brief.", "1 + 1?", True)
    assert prompt.turns == (("user", "Hi"), ("assistant", "Yes?"))


@pytest.mark.parametrize(
    "chat", [[], "Hi", ANSWERED[:3], [*CHAT, CHAT[0]], [{"role": "tool", "content": ""}], [1], None]
)
def test_chats_that_cannot_be_answered(tmp_path: Path, chat: Any) -> None:
    with pytest.raises(InputError, match="no chat to answer"):
        load_tasks(
            [generate(lines(tmp_path, json.dumps({"m": chat, "a": "2"})), prompt="", messages="m", chat_template=True)]
        )


@pytest.mark.parametrize("second", ['{"i": 1, "q": "red  1", "a": "2"}', '{"i": 1, "q": "red 1 ", "a": "3"}'])
def test_an_index_does_not_make_a_question_another(tmp_path: Path, second: str) -> None:
    path = lines(tmp_path, '{"i": 0, "q": "red 1", "a": "2"}', second)
    with pytest.raises(InputError, match="two items ask the model the same") as caught:
        load_tasks([generate(path)])
    assert "line 1" in caught.value.where
    assert "line 2" in caught.value.where
    assert ("list of right answers" in caught.value.fix) == ('"3"' in second)


def test_a_system_message_of_its_own_makes_a_question_another(tmp_path: Path) -> None:
    chats = [[{"role": "system", "content": f"You are {n}."}, CHAT[1]] for n in ("Bob", "Eve")]
    path = lines(tmp_path, *(json.dumps({"m": chat, "a": "x"}) for chat in chats))
    [task] = load_tasks([generate(path, prompt="", messages="m", chat_template=True)])
    assert len(task.items) == 2
    other = json.dumps({"n": 1, "m": chats[0], "a": "x"})
    with pytest.raises(InputError, match="ask the model the same"):
        load_tasks(
            [
                generate(
                    lines(tmp_path, json.dumps({"m": chats[0], "a": "x"}), other),
                    prompt="",
                    messages="m",
                    chat_template=True,
                )
            ]
        )


@pytest.mark.parametrize(("gold", "same"), [("PARIS", True), (["Lutetia", "paris"], True), ("5 letters", False)])
def test_the_case_of_an_answer_does_not_make_a_question_another(tmp_path: Path, gold: Any, same: bool) -> None:
    question = "What is the capital of France?"
    one = generate(lines(tmp_path, json.dumps({"q": question, "a": "Paris"}), name="1.jsonl"), prompt="Q: {q}\nA:")
    two = generate(lines(tmp_path, json.dumps({"q": question, "a": gold}), name="2.jsonl"), prompt="{q} Reply:")
    keys = [questions_of(task, task.items[0]) for task in load_tasks([one, two])]
    assert bool(keys[0] & keys[1]) is same


def test_the_same_questions_under_other_names_are_refused_in_two_tasks(tmp_path: Path) -> None:
    questions = [f"What is {i} plus {i}?" for i in range(12)]
    one = lines(tmp_path, *(json.dumps({"q": q, "a": f"{i}"}) for i, q in enumerate(questions)), name="1.jsonl")
    other = lines(
        tmp_path, *(json.dumps({"text": f"{q} ", "gold": f"{i}"}) for i, q in enumerate(questions)), name="2.jsonl"
    )
    config = SplitConfig(search=4, select=4, report=4)
    for prompt in ("{text} =", "Question: {text}\nAnswer:"):
        tasks = load_tasks([generate(one), generate(other, name="u", prompt=prompt, answer="gold")])
        splits = {task.name: split_items(task.items, config, seed=1, task=task.name) for task in tasks}
        keys = {task.name: (lambda item, task=task: questions_of(task, item)) for task in tasks}
        check_disjoint(splits)
        with pytest.raises(InputError, match="uses for search or selection") as caught:
            check_disjoint(splits, keys)
        assert "1.jsonl, line" in caught.value.where
        assert "2.jsonl, line" in caught.value.where


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "lines 1 and 3"),
        ("x:\n  a: 1\n  a: 1\n", "lines 2 and 3"),
        ("{no: 1, false: 2}\n", "lines 1 and 1"),
        ("- {a: 1, 'a': 2}\n", "lines 1 and 1"),
    ],
)
def test_a_key_that_stands_twice_is_refused(text: str, line: str) -> None:
    with pytest.raises(InputError, match="stands twice") as caught:
        read_yaml(text, what="the spec", where="s.yaml")
    assert caught.value.where == f"s.yaml, {line}"


def test_merged_mappings_may_repeat_keys() -> None:
    text = "p: {q: &a {<<: &b {k: 1}, k: 2}}\nx: {<<: *a, k: 3}\n"
    assert read_yaml(text, what="the spec", where="s") == {"p": {"q": {"k": 2}}, "x": {"k": 3}}


@pytest.mark.parametrize(
    "scalar", ["no", "on", "~", "12:30", "007", "1.10", "2026-01-01", "1_000", "0x1F", "true", "1.0e+3"]
)
def test_few_shot_texts_that_yaml_would_change_are_refused(scalar: str) -> None:
    text = f"few_shot:\n- {{q: x, a: {scalar}}}\n"
    with pytest.raises(InputError, match="YAML does not read") as caught:
        read_yaml(text, what="the spec", where="s", texts=("few_shot",))
    assert caught.value.where == "s, line 2"
    fixed = text.replace(scalar, caught.value.fix.removeprefix("quote it: "))
    assert read_yaml(fixed, what="the spec", where="s", texts=("few_shot",))["few_shot"][0]["a"] == scalar


def test_overrides_of_few_shot_are_texts_too(tmp_path: Path) -> None:
    raw: dict[str, Any] = {"fitness": {"tasks": [{"name": "t"}]}}
    for override in ("few_shot=[{q: x, a: 007}]", "few_shot.0.a=1.10", "few_shot={a: [12:30]}"):
        with pytest.raises(InputError, match="YAML does not read") as caught:
            apply_override(raw, f"fitness.tasks.t.{override}")
        assert "--set fitness.tasks.t.few_shot" in caught.value.where
    apply_override(raw, 'fitness.tasks.t.few_shot=[{q: x, a: "007", b: 46}]')
    assert raw["fitness"]["tasks"][0]["few_shot"] == [{"q": "x", "a": "007", "b": 46}]


@pytest.mark.parametrize("scalar", ["46", "1.5", "-3", "yes please", "1e-5", "x"])
def test_few_shot_texts_that_survive_are_kept(scalar: str) -> None:
    value = read_yaml(f"few_shot: [{{a: {scalar}}}]", what="the spec", where="s", texts=("few_shot",))
    assert str(value["few_shot"][0]["a"]) == scalar


@pytest.mark.parametrize(
    "text", ["a: [", "a: 2026-02-31", "a: 1\n--- \nb: 2", "[" * 5000, "a: !!python/name:os.system x"]
)
def test_yaml_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError, match=r"is not (one )?YAML"):
        read_yaml(text, what="the spec", where="s")
