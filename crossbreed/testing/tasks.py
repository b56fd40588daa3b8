"""Conformance tests for kinds of task: requests are reproducible and the gold answer scores best.

Subclass `TaskConformance` in a test module and override its one fixture:

    class TestMine(TaskConformance):
        @pytest.fixture
        def task(self) -> Task:
            kind = MyTask(kind="mine", name="sums", ...)
            return Task(kind=kind, items=tuple(Item(id=str(i), fields={...}) for i in range(9)))
"""

import json
import math
import pickle
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.fitness.evaluation import evaluate_tasks
from crossbreed.fitness.items import Item, SearchItems, field_of
from crossbreed.fitness.requests import Generate, Loglikelihood, Request, Response
from crossbreed.fitness.tasks import Answer, Task

CERTAIN, HOPELESS = 0.0, -50.0
"""Log-probabilities of an expected token and of an unexpected one."""


def response(request: Request, *, text: str = "", logprob: float = CERTAIN) -> Response:
    """Returns a response with one token a byte: `text` for a Generate, `logprob` for each token of a Loglikelihood."""
    generated = text.encode() if isinstance(request, Generate) else request.continuation.encode()
    return Response(
        text=text if isinstance(request, Generate) else "",
        token_ids=tuple(generated),
        logprobs=(logprob,) * len(generated),
        prompt_tokens=len(request.prompt.text.encode()),
    )


class Scripted:
    """A handle that returns prepared responses in order."""

    def __init__(self, responses: Sequence[Response]) -> None:
        self._responses = iter(responses)
        self.num_requests: list[int] = []
        """Number of requests of each call."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Returns the next response for each request; see `Handle`."""
        self.num_requests.append(len(requests))
        return [next(self._responses) for _ in requests]


_EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    report_multiple_bugs=False,
    # examples do not change `task`, and all subclasses run the same examples
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


class TaskConformance:
    """The requirements. Override `task`, and the class variables where its values have another range.

    Override `right` too where the responses of a correct model do not follow from `shown` and `calibration`.
    """

    low: ClassVar[float] = 0.0
    """Smallest value of an item."""
    high: ClassVar[float] = 1.0
    """Largest value of an item; infinite if it has no bound."""
    has_calibration: ClassVar[bool] = True
    """Whether the kind implements `calibration`."""

    @pytest.fixture
    def task(self) -> Task:
        """Override: returns the kind with at least three different items."""
        raise NotImplementedError

    def right(self, task: Task, item: Item) -> list[Response]:
        """Returns the responses of a correct and certain model.

        Texts end before the first stop of their request, as in an engine: a gold answer that contains a stop is never
        generated whole.
        """
        requests = task.requests(item)
        expected = task.calibration(item) if any(isinstance(r, Loglikelihood) for r in requests) else None
        return [
            response(request, text=_until_stop(task.kind.shown(item), request.stop))
            if isinstance(request, Generate)
            else response(request, logprob=CERTAIN if request == expected else HOPELESS)
            for request in requests
        ]

    def wrong(self, task: Task, item: Item) -> list[Response]:
        """Returns the responses of a model that generates nothing and finds the gold answer unlikely."""
        requests = task.requests(item)
        expected = task.calibration(item) if any(isinstance(r, Loglikelihood) for r in requests) else None
        return [response(request, logprob=HOPELESS if request == expected else CERTAIN) for request in requests]

    def test_every_item_has_requests(self, task: Task) -> None:
        """The task has a name, a chunk size, at least three items and requests for each."""
        assert task.name
        assert len(task.items) >= 3
        assert type(task.kind.chunk) is int
        assert task.kind.chunk >= 1
        for item in task.items:
            requests = task.requests(item)
            assert requests
            assert all(isinstance(request, Generate | Loglikelihood) for request in requests)

    def test_requests_are_a_function_of_the_item(self, task: Task) -> None:
        """They depend neither on earlier calls, nor on the order of fields, nor on other items."""
        forwards = [list(task.requests(item)) for item in task.items]
        backwards = [list(task.requests(_reordered(item))) for item in reversed(task.items)]
        assert backwards[::-1] == forwards

    def test_a_value_is_a_function_of_item_and_responses(self, task: Task) -> None:
        """It does not depend on what was scored before: chunks, splits and resumes change the order."""
        pairs = [(item, give(task, item)) for item in task.items for give in (self.right, self.wrong)]
        forwards = [task.score(item, responses) for item, responses in pairs]
        backwards = [task.score(_reordered(item), tuple(responses)) for item, responses in reversed(pairs)]
        assert backwards[::-1] == forwards

    def test_items_are_not_modified(self, task: Task) -> None:
        """All candidates and splits share them."""
        before = deepcopy(task.items)
        for item in task.items:
            task.requests(item)
            task.score(item, self.right(task, item))
            task.kind.shown(item)
            if self.has_calibration:
                task.calibration(item)
        assert task.items == before

    def test_the_gold_answer_scores_better_than_a_wrong_one(self, task: Task) -> None:
        """For each item, in the direction of `higher_is_better`."""
        for item in task.items:
            right, wrong = (task.score(item, give(task, item)).value for give in (self.right, self.wrong))
            assert right > wrong if task.higher_is_better else right < wrong, f"item {item.id}"

    @_EXAMPLES
    @given(data=st.data())
    def test_any_response_has_a_value_in_range(self, task: Task, data: st.DataObject) -> None:
        """For any text and likelihood: a float from `low` to `high`, no better than the value of the gold answer."""
        item = data.draw(st.sampled_from(task.items))
        responses = [data.draw(_responses(request)) for request in task.requests(item)]
        answer, best = task.score(item, responses), task.score(item, self.right(task, item))
        for found in (answer, best):
            assert isinstance(found, Answer)
            assert isinstance(found.text, str)
            assert type(found.value) is float
            assert math.isfinite(found.value)
            assert self.low <= found.value <= self.high
        assert answer.value <= best.value if task.higher_is_better else answer.value >= best.value

    def test_an_item_without_its_fields_is_an_input_error(self, task: Task) -> None:
        """The message names the item. A run renders all items before it starts."""
        with pytest.raises(InputError, match="without fields"):
            task.requests(Item(id="without fields", fields={}))

    def test_calibration_is_a_function_of_the_item(self, task: Task) -> None:
        """A non-empty continuation; InputError from kinds without calibration."""
        for item in task.items:
            assert isinstance(task.kind.shown(item), str)
            if not self.has_calibration:
                with pytest.raises(InputError):
                    task.calibration(item)
                continue
            expected = task.calibration(item)
            assert isinstance(expected, Loglikelihood)
            assert expected.continuation.strip()
            assert task.calibration(_reordered(item)) == expected

    def test_every_item_has_the_field_to_stratify_by(self, task: Task) -> None:
        """If the task names one."""
        if task.kind.stratify is not None:
            for item in task.items:
                field_of(item, task.kind.stratify, task=task.name)

    def test_requests_are_sent_in_chunks(self, task: Task) -> None:
        """Each call has all requests of `chunk` items, and values are those of the items alone."""
        responses = [r for item in task.items for r in self.right(task, item)]
        handle = Scripted(responses)
        found = evaluate_tasks(handle, [task], {task.name: SearchItems(task.items)}).tasks[task.name]
        assert found.item_ids == tuple(item.id for item in task.items)
        assert found.values == tuple(task.score(item, self.right(task, item)).value for item in task.items)
        assert handle.num_requests == [sum(len(task.requests(item)) for item in chunk) for chunk in _chunks(task)]

    def test_it_can_be_pickled(self, task: Task) -> None:
        """Workers receive it by pickle and must send the same requests."""
        arrived: Task = pickle.loads(pickle.dumps(task))
        assert arrived == task
        assert [arrived.requests(item) for item in arrived.items] == [task.requests(item) for item in task.items]

    def test_settings_survive_json(self, task: Task) -> None:
        """The run folder stores them as JSON, and a resume compares them."""
        assert isinstance(task.kind, Config), "a kind is a Config"
        written = json.loads(task.kind.model_dump_json())
        read = type(task.kind).model_validate(written)
        assert read == task.kind
        assert [read.requests(item) for item in task.items] == [task.requests(item) for item in task.items]


def _responses(request: Request) -> st.SearchStrategy[Response]:
    """Responses that an engine may give: any text, any finite log-probability."""
    stops = request.stop if isinstance(request, Generate) else ()
    texts = st.text(max_size=20).map(lambda text: _until_stop(text, stops))
    return st.builds(response, st.just(request), text=texts, logprob=st.floats(HOPELESS, CERTAIN))


def _until_stop(text: str, stops: Sequence[str]) -> str:
    return text[: min((end for stop in stops if (end := text.find(stop)) >= 0), default=len(text))]


def _reordered(item: Item) -> Item:
    """The same item with its fields in reverse order."""
    return Item(id=item.id, fields=dict(reversed(deepcopy(dict(item.fields)).items())))


def _chunks(task: Task) -> Iterator[Sequence[Item]]:
    for start in range(0, len(task.items), task.kind.chunk):
        yield task.items[start : start + task.kind.chunk]
