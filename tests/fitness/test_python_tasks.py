"""Tasks and engines that a function of the user's scores: loaded, identified by their source, blamed by their lines."""

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from crossbreed.errors import EngineError, InputError
from crossbreed.fitness import (
    AnyTaskConfig,
    Item,
    Request,
    Response,
    SearchItems,
    Task,
    TaskConfig,
    evaluate_tasks,
    load_tasks,
)
from crossbreed.fitness.engines.python import PythonConfig, PythonEngine
from crossbreed.fitness.tasks.python import PythonTask
from crossbreed.testing.tasks import TaskConformance
from crossbreed.types import Recipe

ITEMS = tuple(Item(id=f"i{n}", fields={"q": f"{n} + 4", "a": n + 4}) for n in range(5))
SCORE = """
import math

def score(answers, items):
    return [float(answer.text.strip() == str(item["a"])) for answer, item in zip(answers, items, strict=True)]

def broken(answers, items):
    wanted = [int(item["q"]) for item in items]
    return wanted
"""
EVALUATE = """
def evaluate(ask, items):
    said = ask([item["q"] + " =" for item in items], max_tokens=4, stop=["\\n"])
    likely = ask.likelihoods(["1"] * len(items), [" 2"] * len(items))
    return [len(one.text) + sum(two.logprobs) for one, two in zip(said, likely, strict=True)]

def chats(ask, items):
    ask([[{"role": "system", "content": "Be brief."}, {"role": "user", "content": item["q"]}] for item in items])
    return [1] * len(items)

def careless(ask, items):
    try:
        ask(["x"])
    except Exception:
        pass
    return [0.0] * len(items)
"""


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], Path]:
    def write(source: str) -> Path:
        path = tmp_path / "own.py"
        path.write_text(source)
        return path

    return write


def task(**changes: Any) -> PythonTask:
    given = {"kind": "python", "name": "mine", "items": "x", "chunk": 2, **changes}
    made = TypeAdapter[TaskConfig](AnyTaskConfig).validate_python(given)
    assert isinstance(made, PythonTask)
    return made


class Parrot:
    """Writes the last word of each prompt; every continuation has a log-probability of -1 a character."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.calls: list[Sequence[Request]] = []
        self._failure = failure

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        self.calls.append(requests)
        if self._failure is not None:
            raise self._failure
        texts = [getattr(request, "continuation", request.prompt.text.split()[-1]) for request in requests]
        return [
            Response(text=text, token_ids=tuple(text.encode()), logprobs=(-1.0,) * len(text), prompt_tokens=3)
            for text in texts
        ]


class TestScored(TaskConformance):
    @pytest.fixture
    def task(self, own: Any) -> Task:
        path = own(SCORE)
        return Task(kind=task(function=f"{path}:score", prompt="{q} =", answer="a"), items=ITEMS)


def test_a_function_scores_a_chunk_at_a_time(own: Any) -> None:
    source = (
        "calls = []\ndef score(answers, items):\n    calls.append(len(items))\n    return [sum(calls)] * len(items)\n"
    )
    made = Task(kind=task(function=f"{own(source)}:score", prompt="{q} ="), items=ITEMS)
    found = evaluate_tasks(Parrot(), [made], {"mine": SearchItems(ITEMS)})
    assert found.tasks["mine"].values == (2, 2, 4, 4, 5)
    assert found.texts["mine"] == ("=",) * 5


def test_a_function_asks_for_itself_in_chunks(own: Any) -> None:
    made = Task(kind=task(function=f"{own(EVALUATE)}:evaluate", chunk=2), items=ITEMS)
    handle = Parrot()
    found = evaluate_tasks(handle, [made], {"mine": SearchItems(ITEMS)})
    assert found.tasks["mine"].values == (-1.0,) * 5
    assert [len(call) for call in handle.calls] == [2, 2, 2, 2, 1, 1]
    assert found.num_tokens == 5 * (3 + 1) + 5 * (3 + 2)
    assert handle.calls[0][0].prompt.text == "0 + 4 ="


def test_chats_are_prompts(own: Any) -> None:
    made = Task(kind=task(function=f"{own(EVALUATE)}:chats"), items=ITEMS)
    handle = Parrot()
    found = evaluate_tasks(handle, [made], {"mine": SearchItems(ITEMS)})
    assert found.texts["mine"] == ("4",) * 5
    assert handle.calls[0][0].prompt.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "0 + 4"},
    ]


@pytest.mark.parametrize("failure", [EngineError("out of memory"), OSError("disk")])
def test_what_the_engine_could_not_do_is_no_zero(own: Any, failure: Exception) -> None:
    """Although the function caught it, and says 0."""
    made = Task(kind=task(function=f"{own(EVALUATE)}:careless"), items=ITEMS)
    with pytest.raises(type(failure), match=str(failure)):
        evaluate_tasks(Parrot(failure), [made], {"mine": SearchItems(ITEMS)})


def test_an_error_shows_the_users_own_lines(own: Any) -> None:
    path = own(SCORE)
    made = Task(kind=task(function=f"{path}:broken", prompt="{q} ="), items=ITEMS)
    with pytest.raises(InputError) as caught:
        evaluate_tasks(Parrot(), [made], {"mine": SearchItems(ITEMS)})
    assert caught.value.problem.startswith("`own.py:broken` raises ValueError: invalid literal for int()")
    assert 'line 8: wanted = [int(item["q"]) for item in items]' in caught.value.got
    assert caught.value.where == f"task `mine`; {path}, line 8"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return None", "raises TypeError"),
        ("return 3", "raises TypeError"),
        ("return [1]", "returns 1 values for 2 items"),
        ("return '11'", "returns '11' for 2 items"),
        ("return {0: 1, 1: 1}", "returns {0: 1, 1: 1} for 2 items"),
        ("return [1, None]", "returns None for item `i1`"),
        ("return [float('nan'), 1]", "returns nan for item `i0`"),
        ("return [1, 1e300]", "returns 1e+300 for item `i1`"),
        ("return ['1', '1']", "returns '1' for item `i0`"),
        ("items[0]['a'].x", "raises AttributeError"),
        ("1 / 0", "raises ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_no_list_of_numbers_is_refused(own: Any, body: str, said: str) -> None:
    path = own(f"def score(answers, items):\n    {body}\n")
    made = task(function=f"{path}:score", prompt="{q} =")
    with pytest.raises(InputError) as caught:
        evaluate_tasks(Parrot(), [Task(kind=made, items=ITEMS)], {"mine": SearchItems(ITEMS)})
    assert said in caught.value.problem
    assert "own.py" in caught.value.where


@pytest.mark.parametrize("values", ["[True, 0.5]", "(1, 0.5)", "numpy.array([1, 0.5])", "torch.tensor([1, 0.5])"])
def test_numbers_of_any_type(own: Any, values: str) -> None:
    source = f"import numpy, torch\ndef score(answers, items):\n    return {values}\n"
    made = task(function=f"{own(source)}:score", prompt="{q} =")
    found = evaluate_tasks(Parrot(), [Task(kind=made, items=ITEMS[:2])], {"mine": SearchItems(ITEMS[:2])})
    assert found.tasks["mine"].values == (1.0, 0.5)


def test_items_are_copies(own: Any) -> None:
    source = "def score(answers, items):\n    for item in items: item.clear()\n    return [0] * len(items)\n"
    made = task(function=f"{own(source)}:score", prompt="{q} =")
    evaluate_tasks(Parrot(), [Task(kind=made, items=ITEMS)], {"mine": SearchItems(ITEMS)})
    assert ITEMS[0].fields["q"] == "0 + 4"


def load(made: PythonTask, tmp_path: Path) -> tuple[Item, ...]:
    (tmp_path / "x.jsonl").write_text(json.dumps({"q": "1"}) + "\n")
    [loaded] = load_tasks([made.model_copy(update={"items": str(tmp_path / "x.jsonl")})])
    return loaded.items


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        ("x = 1", "score", "there is no function `score`"),
        ("score = 1", "score", "there is no function `score`"),
        ("def scores(answers, items): pass", "score", "did you mean `scores`?"),
        ("def score(items): pass", "score", "cannot be called with two arguments: too many positional arguments"),
        ("def score(a, b, c): pass", "score", "missing a required argument: 'c'"),
        ("def score(:\n  pass", "score", "raises SyntaxError"),
        ("import nothing_of_that_name", "score", "raises ModuleNotFoundError"),
        ("import sys\nsys.exit(3)", "score", "raises SystemExit: 3"),
        ("raise RuntimeError('at import')", "score", "line 1: raise RuntimeError('at import')"),
    ],
)
def test_files_that_hold_no_function(own: Any, tmp_path: Path, source: str, name: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load(task(function=f"{own(source)}:{name}", prompt="{q} ="), tmp_path)
    assert said in str(caught.value)
    assert f"task `mine`; {tmp_path / 'own.py'}" in caught.value.where


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read(?s:.*)no such file"):
        load(task(function=f"{tmp_path}/none.py:score", prompt="{q} ="), tmp_path)


@pytest.mark.parametrize("name", ["no_such_module:score", "math:sqrt", "crossbreed.none:score", "none.none:score"])
def test_modules_without_a_source(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no module"):
        load(task(function=name, prompt="{q} ="), tmp_path)


def test_a_module_that_is_installed(tmp_path: Path) -> None:
    made = task(function="operator:concat", prompt="{q} =")
    assert load(made, tmp_path)
    assert made.metric_name == "concat"
    assert made.identity()["function"].startswith("operator:concat@")


@pytest.mark.parametrize("function", ["own.py", "own.py:", ":score", "own:a b", "own.py:a.b", ""])
def test_what_names_no_function(function: str) -> None:
    with pytest.raises(ValidationError, match=r"a function is named as `path\.py:name`"):
        task(function=function, prompt="{q} =")


def test_a_prompt_needs_a_function() -> None:
    with pytest.raises(ValidationError, match="needs a `function`"):
        task(prompt="{q} =")


def test_neighbours_are_imported_and_data_classes_work(own: Any, tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_own.py").write_text("TWO = 2\n")
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom neighbour_of_own import TWO\n"
        "@dataclass\nclass Value:\n    number: int = TWO\n"
        "def score(answers, items):\n    return [Value().number] * len(items)\n"
    )
    made = Task(kind=task(function=f"{own(source)}:score", prompt="{q} ="), items=ITEMS)
    assert set(evaluate_tasks(Parrot(), [made], {"mine": SearchItems(ITEMS)}).tasks["mine"].values) == {2.0}


def test_the_source_is_the_identity_and_the_place_is_not(own: Any, tmp_path: Path) -> None:
    path = own(SCORE)
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "own.py"
    moved.write_text(SCORE)
    before, elsewhere = (task(function=f"{place}:score", prompt="{q} =").identity() for place in (path, moved))
    assert before == elsewhere
    path.write_text(SCORE + "# changed\n")
    after = task(function=f"{path}:score", prompt="{q} =").identity()
    assert before != after
    read_again = task(function=before["function"], prompt="{q} =")
    assert read_again.identity() == before


def test_a_file_that_changes_meanwhile_scores_nothing_else(own: Any, tmp_path: Path) -> None:
    path = own("def score(answers, items):\n    return [1] * len(items)\n")
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"q": str(n)}) + "\n" for n in range(2)))
    made = task(function=f"{path}:score", prompt="{q} =", items=str(tmp_path / "x.jsonl"))
    [whole] = load_tasks([made])
    path.write_text("def score(answers, items):\n    return [2] * len(items)\n")
    found = evaluate_tasks(Parrot(), [whole], {"mine": SearchItems(whole.items)})
    assert found.tasks["mine"].values == (1, 1)
    arrived: Task = pickle.loads(pickle.dumps(whole))
    assert arrived.kind == made
    assert task(function=f"{path}:score", prompt="{q} =").identity() != made.identity()


def test_a_pinned_source_is_held_to(own: Any, tmp_path: Path) -> None:
    path = own(SCORE)
    with pytest.raises(InputError, match="is another one"):
        load(task(function=f"{path}:score@0123456789ab", prompt="{q} ="), tmp_path)


# The engine

WEIGHTS = """
def evaluate(weights, items):
    weights["w"].zero_()
    return [float(weights["w"].sum()) + item["n"] for item in items]
"""
NUMBERS = tuple(Item(id=str(n), fields={"n": n}) for n in range(3))
RECIPE = Recipe(base="base", sources={"base": "hash"}, rules=())


def test_an_engine_of_a_function_scores_items_with_the_merged_tensors(own: Any, tmp_path: Path) -> None:
    config = PythonConfig(kind="python", function=f"{own(WEIGHTS)}:evaluate")
    engine = PythonEngine(config, tmp_path)
    made = Task(kind=task(name="sums"), items=NUMBERS)
    handle = engine.adopt(RECIPE, iter([("w", torch.ones(2, 2)), ("v", torch.ones(1))]))
    found = evaluate_tasks(handle, [made], {"sums": SearchItems(NUMBERS)})
    assert found.tasks["sums"].values == (4, 5, 6)
    assert engine.keeps({"w", "x"}) == {"w"}
    handle = engine.adopt(RECIPE, iter([("v", torch.zeros(1))]), kept={"w"})
    assert handle.evaluate(NUMBERS) == [4, 5, 6]
    with pytest.raises(EngineError, match="answers no prompts"):
        handle.answer([])
    engine.close()


def test_the_engines_errors_show_the_users_lines(own: Any, tmp_path: Path) -> None:
    path = own("def evaluate(weights, items):\n    return [weights['none'].sum()]\n")
    engine = PythonEngine(PythonConfig(kind="python", function=f"{path}:evaluate"), tmp_path)
    handle = engine.adopt(RECIPE, iter([("w", torch.ones(2))]))
    with pytest.raises(InputError, match=r"raises KeyError: 'none'(?s:.*)line 2: return"):
        handle.evaluate(NUMBERS)


def test_an_engine_that_answers_does_not_score_items() -> None:
    with pytest.raises(EngineError, match="scores no items"):
        evaluate_tasks(Parrot(), [Task(kind=task(), items=NUMBERS)], {"mine": SearchItems(NUMBERS)})
