"""Kinds of task pass the conformance tests, and the tests catch faulty kinds."""

import inspect
import itertools
import math
import random
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from crossbreed.errors import InputError
from crossbreed.fitness.items import Item
from crossbreed.fitness.requests import Generate, Request, Response
from crossbreed.fitness.tasks import Answer, ChoiceTask, GenerateTask, LikelihoodTask, PerplexityTask, Task
from crossbreed.testing.tasks import TaskConformance, response

SUMS = tuple(
    Item(id=f"i{n}", fields={"q": f"{n} + 4", "a": n + 4, "level": "easy" if n < 3 else "hard"}) for n in range(5)
)
CITIES = tuple(
    Item(id=city, fields={"q": country, "a": city, "o": ["Rome", "Paris", "Oslo"]})
    for country, city in (("Italy", "Rome"), ("France", "Paris"), ("Norway", "Oslo"))
)


def generate(kind: type[GenerateTask] = GenerateTask, items: Sequence[Item] = SUMS, **settings: Any) -> Task:
    settings = {"prompt": "{q} =", "answer": "a", "chunk": 2, **settings}
    return Task(kind=kind(kind="generate", name="sums", items="", **settings), items=tuple(items))


class TestExactMatch(TaskConformance):
    @pytest.fixture
    def task(self) -> Task:
        return generate(stratify="level", few_shot=[{"q": "9 + 9", "a": 18}])


class TestContains(TaskConformance):
    @pytest.fixture
    def task(self) -> Task:
        return generate(items=CITIES, metric="contains", chat_template=True, system="Name the capital.")


class TestNumber(TaskConformance):
    @pytest.fixture
    def task(self) -> Task:
        return generate(metric="number", stop=[])


class TestRegex(TaskConformance):
    @pytest.fixture
    def task(self) -> Task:
        return generate(items=CITIES, metric="regex", pattern=r"answer is (\w+)")

    def right(self, task: Task, item: Item) -> list[Response]:
        return [response(request, text=f"The answer is {item.fields['a']}.") for request in task.requests(item)]


class TestChoice(TaskConformance):
    @pytest.fixture
    def task(self) -> Task:
        kind = ChoiceTask(kind="choice", name="cities", items="", prompt="{q}", answer="a", choices="o", chunk=2)
        return Task(kind=kind, items=CITIES)


class TestChoiceByIndex(TaskConformance):
    @pytest.fixture
    def task(self) -> Task:
        options = [("Oslo", "Paris"), ("Rome", "Nice"), ("Bergen", "Lyon")]
        items = tuple(Item(id=a, fields={"q": a[0], "a": n % 2, "o0": a, "o1": b}) for n, (a, b) in enumerate(options))
        kind = ChoiceTask(
            kind="choice", name="cities", items="", prompt="{q}", answer="a", choices=["o0", "o1"], normalize="tokens"
        )
        return Task(kind=kind, items=items)


class TestPermuted(TaskConformance):
    @pytest.fixture
    def task(self) -> Task:
        prompt = "{q}\nA. {o[0]}\nB. {o[1]}\nC. {o[2]}\nAnswer:"
        settings = {"answer": "a", "choices": "o", "chunk": 2, "permute": True, "scored": "letter"}
        kind = ChoiceTask(kind="choice", name="cities", items="", prompt=prompt, **settings)
        return Task(kind=kind, items=CITIES)


class TestSampled(TaskConformance):
    @pytest.fixture
    def task(self) -> Task:
        return generate(samples=4, temperature=0.5, take="pass@2", thinking="<think>.*?</think>")


class TestMajority(TaskConformance):
    @pytest.fixture
    def task(self) -> Task:
        return generate(samples=3, temperature=0.5, take="majority", metric="number")


class TestF1(TaskConformance):
    @pytest.fixture
    def task(self) -> Task:
        return generate(items=CITIES, metric={"any": ["f1", "rouge_l"]})


class TestPerplexity(TaskConformance):
    high: ClassVar[float] = math.inf

    @pytest.fixture
    def task(self) -> Task:
        items = tuple(Item(id=text[:4], fields={"text": text}) for text in ("Once upon a time", "É\nà", "one two"))
        return Task(kind=PerplexityTask(kind="perplexity", name="prose", items=""), items=items)


class TestLikelihood(TaskConformance):
    high: ClassVar[float] = math.inf

    @pytest.fixture
    def task(self) -> Task:
        kind = LikelihoodTask(kind="likelihood", name="golds", items="", prompt="{q}:", answer="a")
        return Task(
            kind=kind, items=tuple(Item(id=q, fields={"q": q, "a": a}) for q, a in (("1", "É"), ("2", "b c"), ("3", 7)))
        )


class _Counting(GenerateTask):
    """Numbers its requests."""

    _calls: ClassVar[Any] = itertools.count()

    def requests(self, item: Item) -> list[Request]:
        [request] = super().requests(item)
        assert isinstance(request, Generate)
        return [Generate(prompt=request.prompt, max_tokens=request.max_tokens, seed=next(self._calls))]


class _InFileOrder(GenerateTask):
    """Depends on the order of fields."""

    def requests(self, item: Item) -> list[Request]:
        return super().requests(Item(id=item.id, fields=item.fields | {"q": str(list(item.fields))}))


class _Percent(GenerateTask):
    """Scores in percent."""

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        answer = super().score(item, responses)
        return Answer(value=100 * answer.value, text=answer.text)


class _Backwards(GenerateTask):
    """Declares the wrong direction."""

    higher_is_better: ClassVar[bool] = False


class _Generous(GenerateTask):
    """Scores long texts better than the gold answer."""

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        right = super().score(item, responses).value
        return Answer(value=max(right / 2, float(len(responses[0].text) > 3)), text=responses[0].text)


class _Ratio(GenerateTask):
    """Returns NaN for an empty text."""

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        right = super().score(item, responses).value
        return Answer(value=right if responses[0].text else math.nan, text=responses[0].text)


class _Novelty(GenerateTask):
    """Scores repeated texts 0."""

    _seen: ClassVar[set[str]] = set()

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        text = responses[0].text
        is_new = (item.id, text) not in self._seen
        self._seen.add((item.id, text))
        return Answer(value=float(is_new and super().score(item, responses).value), text=text)


class _Marking(GenerateTask):
    """Modifies the item."""

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        item.fields["seen"] = True
        return super().score(item, responses)


class _Crashing(GenerateTask):
    """Raises KeyError for a missing field."""

    def requests(self, item: Item) -> list[Request]:
        assert item.fields["q"]
        return super().requests(item)


class _Sampling(GenerateTask):
    """Uses the global random generator."""

    def requests(self, item: Item) -> list[Request]:
        return super().requests(Item(id=item.id, fields=item.fields | {"q": random.random()}))


class _Secretive(GenerateTask):
    """Omits a setting from its JSON."""

    def model_dump_json(self, **_: Any) -> str:
        return super().model_dump_json(exclude={"max_tokens"})


class _Local(GenerateTask):
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        return (lambda: self), ()


SUITE = TaskConformance()
VALUE = SUITE.test_any_response_has_a_value_in_range
BEST = SUITE.test_the_gold_answer_scores_better_than_a_wrong_one


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (_Counting, SUITE.test_requests_are_a_function_of_the_item),
        (_Sampling, SUITE.test_requests_are_a_function_of_the_item),
        (_InFileOrder, SUITE.test_requests_are_a_function_of_the_item),
        (_Percent, VALUE),
        (_Ratio, VALUE),
        (_Generous, VALUE),
        (_Backwards, BEST),
        (_Backwards, VALUE),
        (_Novelty, SUITE.test_a_value_is_a_function_of_item_and_responses),
        (_Marking, SUITE.test_items_are_not_modified),
        (_Crashing, SUITE.test_an_item_without_its_fields_is_an_input_error),
        (_Secretive, SUITE.test_settings_survive_json),
        (_Local, SUITE.test_it_can_be_pickled),
    ],
)
def test_a_faulty_kind_is_caught(kind: type[GenerateTask], law: Any) -> None:
    items = [Item(id=item.id, fields=dict(item.fields)) for item in SUMS]
    with pytest.raises((AssertionError, KeyError, AttributeError)):
        law(generate(kind, items, max_tokens=5))


@pytest.mark.parametrize("settings", [{"stop": ["0"]}, {"metric": "contains", "stop": ["a", " "]}])
def test_a_gold_answer_that_contains_a_stop_is_refused(settings: dict[str, Any]) -> None:
    items = [Item(id=str(n), fields={"q": str(n), "a": f"10{n} apples"}) for n in range(3)]
    with pytest.raises(InputError, match="item `0` can never be given"):
        BEST(generate(items=items, **settings))


def test_a_missing_field_to_stratify_by_is_caught() -> None:
    with pytest.raises(ValueError, match="no field `level`"):
        SUITE.test_every_item_has_the_field_to_stratify_by(generate(items=CITIES, stratify="level"))


@pytest.mark.parametrize("name", [name for name, _ in inspect.getmembers(TaskConformance) if name.startswith("test_")])
def test_a_correct_kind_passes(name: str) -> None:
    """The faulty kinds above differ from this one in their fault only."""
    getattr(SUITE, name)(generate(max_tokens=5))
