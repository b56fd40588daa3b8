import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import SupportsFloat

import numpy as np
import pytest
from pydantic import PrivateAttr

from crossbreed.errors import CrossbreedError, EngineError, InvalidWeights
from crossbreed.fitness import (
    Answer,
    ChoiceTask,
    Generate,
    GenerateTask,
    Item,
    PerplexityTask,
    Request,
    Response,
    SearchItems,
    Task,
    evaluate_tasks,
)


@dataclass
class Parrot:
    """Says the prompt's last word, gives longer continuations less, and remembers how it was asked."""

    logprob: float = -1.0
    num_lost: int = 0
    calls: list[list[Request]] = field(default_factory=list)

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        self.calls.append(list(requests))
        return [self._one(request) for request in requests][self.num_lost :]

    def _one(self, request: Request) -> Response:
        text = request.prompt.text.split()[-1] if isinstance(request, Generate) else ""
        length = 1 if isinstance(request, Generate) else len(request.continuation)
        return Response(
            text=text,
            token_ids=(0,) * length,
            logprobs=(self.logprob,) * length,
            prompt_tokens=len(request.prompt.text),
        )


ITEMS = tuple(
    Item(id=str(i), fields={"q": f"say {i}", "a": str(i if i % 2 else -i), "o": ["x", "yy"], "g": 0})
    for i in range(1, 6)
)
ECHO = GenerateTask(kind="generate", name="echo", items="", prompt="{q}", answer="a", chunk=2)
PICK = ChoiceTask(
    kind="choice", name="pick", items="", prompt="{q}", answer="g", choices="o", normalize="none", chunk=4
)
PROSE = PerplexityTask(kind="perplexity", name="prose", items="", text="q")
TASKS = [Task(kind=kind, items=ITEMS) for kind in (ECHO, PICK, PROSE)]
OFFERED = {"echo": SearchItems(ITEMS[::-1]), "pick": SearchItems(ITEMS), "prose": SearchItems(ITEMS[:1])}


def test_every_item_keeps_its_value_in_the_order_offered() -> None:
    found = evaluate_tasks(Parrot(), TASKS, OFFERED)
    assert found.tasks["echo"].item_ids == ("5", "4", "3", "2", "1")
    assert found.tasks["echo"].values == (1, 0, 1, 0, 1)
    assert found.texts["echo"] == ("5", "4", "3", "2", "1")
    assert found.tasks["pick"].values == (1, 1, 1, 1, 1)
    assert found.texts["pick"] == ("x",) * 5
    assert found.tasks["prose"].values == (1.0,)
    assert found.num_items == 11
    assert found.num_tokens == 5 * (5 + 1) + 5 * (2 * 5 + 2 + 3) + 5


def test_chunks_are_of_items_and_an_items_requests_stay_together() -> None:
    parrot = Parrot()
    evaluate_tasks(parrot, TASKS, OFFERED)
    assert list(map(len, parrot.calls)) == [2, 2, 1, 8, 2, 1]


@pytest.mark.parametrize("logprob", [math.nan, -math.inf, math.inf])
def test_logits_that_are_not_finite_are_the_weights_fault(logprob: float) -> None:
    with pytest.raises(InvalidWeights, match="task `echo`"):
        evaluate_tasks(Parrot(logprob=logprob), TASKS, OFFERED)


class Judging(GenerateTask):
    """Gives an item a value of any kind."""

    _value: object = PrivateAttr(default=None)

    _text: object = PrivateAttr(default="said")

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        return Answer(value=1.0 if item.id != "3" else self._value, text=self._text)  # type: ignore[arg-type]


def judged(value: object, text: object = "said") -> tuple[float, ...]:
    kind = Judging(kind="generate", name="mine", items="", prompt="{q}", answer="a")
    kind._value, kind._text = value, text
    return evaluate_tasks(Parrot(), [Task(kind=kind, items=ITEMS)], {"mine": SearchItems(ITEMS)}).tasks["mine"].values


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), Fraction(1, 2), True, np.bool_(True), 1])
def test_a_number_of_any_type_becomes_a_float(value: SupportsFloat) -> None:
    assert judged(value) == (1.0, 1.0, float(value), 1.0, 1.0)
    assert {type(found) for found in judged(value)} == {float}


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.5", 1j, [1.0], np.ones(2), 10**400])
def test_a_value_that_is_no_finite_number_is_a_bug_of_the_task(value: object) -> None:
    with pytest.raises(ValueError, match="task `mine`, item `3`: the value is not a finite number: ") as caught:
        judged(value)
    assert not isinstance(caught.value, CrossbreedError)
    assert repr(value)[:100] in str(caught.value)


@pytest.mark.parametrize("value", [1e308, -1e101])
def test_a_value_that_no_mean_can_be_taken_of_is_a_bug_of_the_task(value: float) -> None:
    with pytest.raises(ValueError, match=r"task `mine`, item `3`: the value .* is too large to average"):
        judged(value)
    assert judged(-1e100)[2] == -1e100


@pytest.mark.parametrize("text", [None, 5, b"x", "\ud800"])
def test_a_text_that_no_file_can_hold_is_a_bug_of_the_task(text: object) -> None:
    with pytest.raises(ValueError, match="task `mine`, item `1`: the answer's text is not a Unicode text"):
        judged(1.0, text)


def test_an_engine_that_loses_answers_is_not_believed() -> None:
    with pytest.raises(EngineError, match="1 responses to 2 requests"):
        evaluate_tasks(Parrot(num_lost=1), TASKS, OFFERED)
