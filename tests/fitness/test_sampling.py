"""Sampled answers, thoughts that are cut, and options in an order of their own."""

from collections import Counter
from itertools import combinations
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossbreed.errors import InputError
from crossbreed.fitness import ChoiceTask, Generate, GenerateTask, Item, Loglikelihood, Response, Task
from crossbreed.fitness.evaluation import evaluate_tasks
from crossbreed.fitness.items import SearchItems
from crossbreed.fitness.tasks.sampling import best_of, most_said
from crossbreed.testing.tasks import Scripted

SUM = Item(id="1", fields={"q": "34 + 12", "a": "46"})


def task(**changes: Any) -> GenerateTask:
    given = {"name": "t", "items": "x", "prompt": "{q} =", "answer": "a", "metric": "number", **changes}
    return GenerateTask(kind="generate", **given)


def value(made: GenerateTask, *texts: str, item: Item = SUM) -> float:
    return made.score(item, [Response(text=t, token_ids=(), logprobs=(), prompt_tokens=1) for t in texts]).value


def seeds(made: GenerateTask, item: Item = SUM) -> list[int]:
    requests = made.requests(item)
    assert all(isinstance(request, Generate) and request.temperature == made.temperature for request in requests)
    return [request.seed for request in requests if isinstance(request, Generate)]


def test_every_sample_has_a_seed_of_its_own_by_name() -> None:
    made = task(samples=5, temperature=0.8)
    again, other_seed = made.with_seed(7), made.with_seed(8)
    assert len(set(seeds(again))) == 5
    assert seeds(again) == seeds(made.with_seed(7))
    assert not set(seeds(again)) & set(seeds(other_seed))
    assert not set(seeds(again)) & set(seeds(task(samples=5, temperature=0.8, name="u").with_seed(7)))
    assert not set(seeds(again)) & set(seeds(again, Item(id="2", fields=SUM.fields)))
    assert seeds(task(samples=3, temperature=0.8).with_seed(7)) == seeds(again)[:3]  # more samples, the same first ones


def test_one_greedy_answer_needs_no_seed() -> None:
    assert task().with_seed(7) == task()
    assert task().requests(SUM) == task().with_seed(7).requests(SUM)


def test_the_mean_pass_at_k_and_the_majority() -> None:
    texts = ("46", "47", "47", "no idea")
    four = {"samples": 4, "temperature": 1.0}
    assert value(task(**four), *texts) == 0.25
    assert value(task(**four, take="pass@1"), *texts) == 0.25
    assert value(task(**four, take="pass@2"), *texts) == 0.5
    assert value(task(**four, take="pass@4"), *texts) == 1
    assert value(task(**four, take="majority"), *texts) == 0
    assert value(task(**four, take="majority"), "46", "it is 46.0", "47", "no idea") == 1
    assert value(task(**four, take="majority"), "46", "47", "", "") == 1  # of equally many, the first
    assert value(task(**four, take="majority"), "", "", "", "46") == 1  # nothing said is no vote


def test_a_majority_of_combined_metrics() -> None:
    both = task(samples=3, temperature=1.0, take="majority", metric={"all": ["number", "json"]})
    assert value(both, "46", "46.0", "47") == 1
    assert value(both, "it is 46", "46", "47") == 0  # the first of those that say 46 is no JSON


@given(values=st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=7), data=st.data())
def test_best_of_k_is_the_mean_over_all_choices_of_k(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    chosen = [max(some) for some in combinations(values, k)]
    assert best_of(values, k) == pytest.approx(sum(chosen) / len(chosen))


@given(keys=st.lists(st.sampled_from([None, 1, 2, 3]), min_size=1, max_size=9))
def test_most_said_has_the_most_votes(keys: list[int | None]) -> None:
    votes = Counter(key for key in keys if key is not None)
    place = most_said(keys)
    assert keys.index(keys[place]) == place
    assert votes[keys[place]] == max(votes.values()) if votes else place == 0


THOUGHT = r"<think>.*?(</think>|$)"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>47 or\n46?</think>\n46", 1),
        ("<think>46</think>47", 0),
        ("<think>46 and no end", 0),
        ("<think>a</think>4<think>b</think>6", 1),
        ("46", 1),
        ("", 0),
    ],
)
def test_thoughts_are_cut_before_an_answer_is_compared(text: str, right: float) -> None:
    made = task(thinking=THOUGHT, metric="exact_match")
    assert value(made, text) == right
    [request] = made.requests(SUM)
    assert isinstance(request, Generate)
    assert request.stop == ()  # a thought has lines


def test_a_pattern_that_matches_nothing_ends() -> None:
    assert value(task(thinking="x*"), "46") == 1


# Options

CITIES = [Item(id=str(n), fields={"q": f"Which? {n}", "o": ["Rome", "Paris", "Oslo"], "a": 1}) for n in range(300)]
SHOWN = "{q}\nA. {o[0]}\nB. {o[1]}\nC. {o[2]}\nAnswer:"


def choice(**changes: Any) -> ChoiceTask:
    given = {"name": "t", "items": "x", "prompt": SHOWN, "answer": "a", "choices": "o", "gold_is": "index", **changes}
    return ChoiceTask(kind="choice", **given)


def test_options_are_as_in_the_file_unless_permuted() -> None:
    requests = choice().requests(CITIES[0])
    assert requests[0].prompt.text.endswith("A. Rome\nB. Paris\nC. Oslo\nAnswer:")
    assert [request.continuation for request in requests] == [" Rome", " Paris", " Oslo"]
    assert choice().with_seed(7) == choice()


def test_each_item_has_an_order_of_its_own_from_the_seed() -> None:
    made = choice(permute=True).with_seed(7)
    places = Counter(made.gold_position(item) for item in CITIES)
    assert set(places) == {0, 1, 2}
    assert min(places.values()) > 70  # of 300, where 100 are expected
    orders = [tuple(request.continuation for request in made.requests(item)) for item in CITIES]
    assert len(set(orders)) == 6
    assert orders == [tuple(r.continuation for r in choice(permute=True).with_seed(7).requests(i)) for i in CITIES]
    assert orders != [tuple(r.continuation for r in choice(permute=True).with_seed(8).requests(i)) for i in CITIES]


@pytest.mark.parametrize("scored", ["text", "letter"])
def test_prompt_gold_and_scores_move_together(scored: Any) -> None:
    made = choice(permute=True, scored=scored).with_seed(7)
    for item in CITIES[:20]:
        requests, place = made.requests(item), made.gold_position(item)
        lines = requests[0].prompt.text.splitlines()[1:4]
        assert lines[place] == f"{'ABC'[place]}. Paris"
        assert made.shown(item) == ("Paris" if scored == "text" else "ABC"[place])
        assert made.calibration(item) == requests[place]
        assert requests[place].continuation == f" {made.shown(item)}"
        said = [_likely(request, -1.0 if i == place else -2.0) for i, request in enumerate(requests)]
        answer = made.score(item, said)
        assert (answer.value, answer.text) == (1, "Paris")


def _likely(request: Loglikelihood, logprob: float) -> Response:
    return Response(text="", token_ids=(1,), logprobs=(logprob * len(request.continuation),), prompt_tokens=1)


def test_fields_with_one_option_each_are_permuted_too() -> None:
    item = Item(id="i", fields={"q": "?", "x": "one", "y": "two", "z": "three", "a": "y"})
    prompt = "{q} A. {x} B. {y} C. {z}"
    orders = set()
    for seed in range(20):
        made = choice(permute=True, choices=["x", "y", "z"], prompt=prompt, gold_is="name", scored="letter")
        made = made.with_seed(seed)
        place = made.gold_position(item)
        assert f"{'ABC'[place]}. two" in made.render(item).text
        orders.add(made.render(item).text)
    assert len(orders) == 6


def test_letters_stand_for_what_the_prompt_shows() -> None:
    with pytest.raises(InputError, match="does not show the option 'Rome'"):
        choice(scored="letter", prompt="{q}").requests(CITIES[0])


def test_examples_are_permuted_as_items_are() -> None:
    shots = [{"q": f"Which? shot {n}", "o": ["Rome", "Paris", "Oslo"], "a": 1} for n in range(4)]
    made = choice(permute=True, scored="letter", few_shot=shots).with_seed(7)
    examples = made.render(CITIES[0]).text.split("\n\n")[:-1]
    for example in examples:
        assert f"{example[-1]}. Paris" in example
    assert len({example[-1] for example in examples}) > 1


def said(text: str, *, tokens: int, told: int | None = None, ended: Literal["stop", "length"] = "stop") -> Response:
    return Response(text=text, token_ids=(1,) * tokens, logprobs=(), prompt_tokens=1, ended=ended, text_tokens=told)


@pytest.mark.parametrize(
    ("made", "answers", "length"),
    [
        (task(), [said("46", tokens=5, told=3)], 3),
        (task(), [said("46", tokens=5)], 4),  # an engine that does not tell: one token ended it
        (task(), [said("", tokens=0)], 0),
        (task(max_tokens=8), [said("46", tokens=8, told=8, ended="length")], 8),
        (task(thinking="<t>.*?(</t>|$)"), [said("<t>so</t>46", tokens=12, told=11)], 1),  # the rest, by characters
        (task(thinking="<t>.*?(</t>|$)", max_tokens=9), [said("<t>so and", tokens=9, told=9, ended="length")], 9),
        (task(samples=2, temperature=1.0), [said("46", tokens=3, told=2), said("it is 46", tokens=7, told=6)], 4),
    ],
)
def test_the_length_of_an_answer(made: GenerateTask, answers: list[Response], length: float) -> None:
    assert made.score(SUM, answers).length == length


def test_a_length_is_measured_beside_the_values_where_it_is_asked_for() -> None:
    texts = Task(kind=task(name="texts", prompt="{q} ="), items=(SUM,))
    responses = [said("46", tokens=5, told=3)]
    found = evaluate_tasks(Scripted(responses), [texts], {"texts": SearchItems(items=(SUM,))})
    assert found.tasks.keys() == {"texts"}
    found = evaluate_tasks(
        Scripted(responses), [texts], {"texts": SearchItems(items=(SUM,))}, lengths={"texts": "length of texts"}
    )
    assert found.tasks["length of texts"].values == (3.0,)
    assert found.tasks["length of texts"].item_ids == found.tasks["texts"].item_ids
    assert found.num_items == 1
