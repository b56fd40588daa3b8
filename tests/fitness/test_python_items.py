"""Items and requests that a task makes in Python: checked as those of a file are, before anything is measured."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import PrivateAttr

from crossbreed.errors import InputError
from crossbreed.fitness import Answer, Generate, Item, Loglikelihood, Prompt, Response, TaskConfig, load_tasks


class Made(TaskConfig):
    """A task whose ids, fields and requests are made by functions."""

    kind: Literal["made"] = "made"
    _ids: Any = PrivateAttr(default=str)
    _fields: Any = PrivateAttr(default=dict)
    _requests: Any = PrivateAttr(default=None)

    def load_items(self) -> tuple[Item, ...]:
        return tuple(Item(id=self._ids(n), fields={"n": n, **self._fields()}) for n in range(2))

    def requests(self, item: Item) -> Sequence[Generate | Loglikelihood]:
        if self._requests is not None:
            found: Sequence[Generate] = self._requests(item)
            return found
        return [Generate(prompt=Prompt(text=f"say {item.fields['n']}"), max_tokens=2)]

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        return Answer(value=1.0, text="")


def made(**functions: Any) -> Made:
    task = Made(name="mine")
    for name, function in functions.items():
        setattr(task, f"_{name}", function)
    return task


@pytest.mark.parametrize(
    ("make_id", "problem"),
    [
        (lambda n: n, r"not a text(?s:.*)got: +0 \(int\)(?s:.*)str\(\.\.\.\)"),
        (lambda n: np.int64(n), r"not a text(?s:.*)\(int64\)"),
        (lambda n: b"a%d" % n, r"not a text(?s:.*)b'a0' \(bytes\)"),
        (lambda n: f"\ud800{n}", "not a text"),
        (lambda n: None, r"not a text(?s:.*)None \(NoneType\)"),
        (lambda n: "", "not a text"),
        (lambda n: "a" if n else 1, r"not a text(?s:.*)item 0"),
        (lambda n: "same", "the same id(?s:.*)`same` twice"),
    ],
)
def test_ids_are_texts(make_id: Any, problem: str) -> None:
    with pytest.raises(InputError, match=f"{problem}(?s:.*)" if "twice" in problem else problem) as caught:
        load_tasks([made(ids=make_id)])
    assert caught.value.where.startswith("task `mine`")


def test_the_advice_for_ids_works() -> None:
    [task] = load_tasks([made(ids=str)])
    assert [item.id for item in task.items] == ["0", "1"]


@pytest.mark.parametrize(
    "fields",
    [{"x": b"a"}, {"x": "\ud800"}, {"x": float("nan")}, {"x": {1, 2}}, {"x": np.int64(1)}, {"\udfff": 1}, {1: "x"}],
)
def test_fields_are_json(fields: dict[Any, Any]) -> None:
    with pytest.raises(InputError, match="item `0` holds a value that is not JSON") as caught:
        load_tasks([made(fields=lambda: fields)])
    assert caught.value.where.startswith("task `mine`, field `")


@pytest.mark.parametrize(
    ("request_of", "got"),
    [
        (lambda text: Generate(prompt=Prompt(text=b"x"), max_tokens=1), "bytes"),  # type: ignore[arg-type]
        (lambda text: Generate(prompt=Prompt(text=f"{text}\ud800"), max_tokens=1), "str"),
        (lambda text: Generate(prompt=Prompt(text=text, system="\ud800"), max_tokens=1), "str"),
        (lambda text: Loglikelihood(prompt=Prompt(text=text), continuation=None), "NoneType"),  # type: ignore[arg-type]
        (lambda text: Loglikelihood(prompt=text, continuation="a"), "Loglikelihood"),
        (lambda text: text, "str"),
    ],
)
def test_requests_ask_in_texts(request_of: Any, got: str) -> None:
    with pytest.raises(InputError, match="item `0` cannot be asked") as caught:
        load_tasks([made(requests=lambda item: [request_of(item.id)])])
    assert caught.value.got.endswith(f"({got})")
    assert caught.value.where == "task `mine`"


def test_an_item_asks_something() -> None:
    with pytest.raises(InputError, match=r"item `0` cannot be asked(?s:.*)no request"):
        load_tasks([made(requests=lambda item: [])])
