"""What an engine answers: numbers of odd types are taken, all else is refused with the names of engine and task."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from crossbreed.errors import EngineError, InvalidWeights
from crossbreed.fitness import (
    ChoiceTask,
    Generate,
    GenerateTask,
    Item,
    Loglikelihood,
    PerplexityTask,
    Prompt,
    Request,
    Response,
    SearchItems,
    Task,
    evaluate_tasks,
)
from crossbreed.fitness.canary_probes import ask

ITEM = Item(id="one", fields={"q": "say x", "a": "x", "o": ["x", "y"]})
KINDS = {
    "pick": ChoiceTask(kind="choice", name="pick", items="", prompt="{q}", answer="a", choices="o"),
    "say": GenerateTask(kind="generate", name="say", items="", prompt="{q}", answer="a"),
    "read": PerplexityTask(kind="perplexity", name="read", items="", text="q"),
}


@dataclass
class Odd:
    """Answers rightly but for some fields of a response, or gives something else than responses."""

    changes: dict[str, Any]
    given: Any = None

    def answer(self, requests: Sequence[Request]) -> Any:
        if self.given is not None:
            return self.given(requests)
        return [self.one(request) for request in requests]

    def one(self, request: Request) -> Response:
        text = "" if isinstance(request, Loglikelihood) else "x"
        fields = {"text": text, "token_ids": (1, 2), "logprobs": (-1.0, -0.5), "prompt_tokens": 3}
        return Response(**fields | self.changes)


def asked(kind: str, handle: Odd) -> tuple[float, int]:
    found = evaluate_tasks(handle, [Task(kind=KINDS[kind], items=(ITEM,))], {kind: SearchItems((ITEM,))})
    return found.tasks[kind].values[0], found.num_tokens


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompt_tokens": np.int64(3)},
        {"prompt_tokens": torch.tensor(3)},
        {"logprobs": [-1.0, -0.5]},
        {"logprobs": tuple(map(np.float32, (-1.0, -0.5)))},
        {"logprobs": np.array([-1.0, -0.5], dtype="float32"), "token_ids": np.array([1, 2])},
        {"logprobs": torch.tensor([-1.0, -0.5])},
    ],
)
def test_numbers_of_other_types_count_as_what_they_are(changes: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, num_tokens = asked("read", Odd(changes))
    assert (value, num_tokens) == (0.75, 5)
    assert type(num_tokens) is int


@pytest.mark.parametrize("kind", ["pick", "say", "read"])
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"prompt_tokens": 2.5}, "`prompt_tokens`, got 2.5"),
        ({"prompt_tokens": 2.0}, "`prompt_tokens`, got 2.0"),
        ({"prompt_tokens": -500}, "`prompt_tokens`, got -500"),
        ({"prompt_tokens": 2**70}, "`prompt_tokens`, got"),
        ({"prompt_tokens": None}, "`prompt_tokens`, got None"),
        ({"prompt_tokens": "3"}, "`prompt_tokens`, got '3'"),
        ({"text": None}, "`text`, got None"),
        ({"text": b"x"}, "`text`, got b'x'"),
        ({"text": "\ud800"}, "`text`, got"),
        ({"logprobs": (-1.0,)}, "got 2 tokens and 1 log-prob"),
        ({"logprobs": (-1.0,) * 3}, "got 2 tokens and 3 log-prob"),
        ({"logprobs": (0.5, -1.0)}, "from -1e\\+100 to 0 in `logprobs`, got -1 to 0.5"),
        ({"logprobs": (-1e308, -1e308)}, "got -1e\\+308 to"),
        ({"logprobs": ("-1", "-2")}, "numbers in `logprobs`"),
        ({"logprobs": (None, None)}, "numbers in `logprobs`"),
        ({"logprobs": None}, "a tuple in `logprobs`"),
        ({"token_ids": 5}, "a tuple in `token_ids`"),
        ({"token_ids": (1, 2.5)}, "integers in `token_ids`"),
    ],
)
def test_a_response_that_is_none_is_refused(kind: str, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(EngineError, match=rf"task `{kind}`, engine `Odd`, response 0 of a chunk: .*{problem}"):
        asked(kind, Odd(changes))


@pytest.mark.parametrize("kind", ["pick", "read"])
@pytest.mark.parametrize("changes", [{"logprobs": ()}, {"token_ids": ()}, {"logprobs": (), "token_ids": ()}])
def test_a_score_without_log_probabilities_is_refused(kind: str, changes: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match=rf"task `{kind}`, engine `Odd`, .* tokens and . log-probabilities"):
        asked(kind, Odd(changes))


def test_a_generated_text_needs_no_log_probabilities() -> None:
    assert asked("say", Odd({"logprobs": ()})) == (1.0, 5)


def test_the_rounding_of_a_certain_token_is_none_of_a_fault() -> None:
    assert asked("read", Odd({"logprobs": (1e-6, -1.0)}))[0] == -math.fsum((1e-6, -1.0)) / 2


@pytest.mark.parametrize("logprob", [math.nan, math.inf, np.float32("nan")])
def test_weights_that_answer_with_no_number_are_invalid(logprob: float) -> None:
    with pytest.raises(InvalidWeights, match="task `read`"):
        asked("read", Odd({"logprobs": (logprob, -1.0)}))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (lambda requests: None, "a list of responses, got .*NoneType"),
        (lambda requests: (one for one in requests), "a list of responses, got .*generator"),
        (lambda requests: [None], "a Response, got None"),
        (lambda requests: [("x", (1,), (-1.0,), 3)], "a Response, got .*tuple"),
        (lambda requests: [], "0 responses to 1 requests"),
    ],
)
def test_what_is_no_list_of_responses_is_refused(given: Any, problem: str) -> None:
    with pytest.raises(EngineError, match=f"task `read`, engine `Odd`.*{problem}"):
        asked("read", Odd({}, given=given))


def test_the_canary_takes_and_refuses_the_same_answers() -> None:
    requests = [Generate(prompt=Prompt(text="say x"), max_tokens=2)]
    [found] = ask(Odd({"logprobs": np.array([-1.0, np.nan]), "token_ids": torch.tensor([1, 2])}), requests)
    assert found.token_ids == (1, 2)
    assert (type(found.logprobs), found.logprobs[0], math.isnan(found.logprobs[1])) == (tuple, -1.0, True)
    with pytest.raises(EngineError, match=r"the canary, engine `Odd`, response 0 of a chunk: .*got None"):
        ask(Odd({"text": None}), requests)
