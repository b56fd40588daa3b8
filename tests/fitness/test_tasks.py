import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from crossbreed.errors import InputError, MissingExtra
from crossbreed.fitness import (
    AnyTaskConfig,
    ChoiceTask,
    Generate,
    GenerateTask,
    Item,
    LikelihoodTask,
    Loglikelihood,
    PerplexityTask,
    Prompt,
    Response,
    TaskConfig,
    load_tasks,
)
from crossbreed.fitness.tasks.metrics import METRICS

SUM = Item(id="1", fields={"q": "34 + 12", "a": "46"})
CAPITAL = Item(id="2", fields={"q": "France", "options": ["Rome", "Paris, the city of light"], "a": 1})


def generate(**changes: Any) -> GenerateTask:
    settings = {"name": "t", "items": "x", "prompt": "{q} =", "answer": "a", **changes}
    return GenerateTask(kind="generate", **settings)


def choice(**changes: Any) -> ChoiceTask:
    settings = {"name": "t", "items": "x", "prompt": "{q}:", "answer": "a", "choices": "options", **changes}
    return ChoiceTask(kind="choice", **settings)


def said(text: str = "", logprobs: Sequence[float] = (-1.0,)) -> Response:
    return Response(text=text, token_ids=(0,) * len(logprobs), logprobs=tuple(logprobs), prompt_tokens=3)


def test_a_generate_task_asks_once_and_judges() -> None:
    task = generate(max_tokens=8)
    assert task.requests(SUM) == [Generate(prompt=Prompt(text="34 + 12 ="), max_tokens=8, stop=("\n",))]
    assert task.score(SUM, [said(" 46")]).value == 1
    assert task.score(SUM, [said(" 47")]).value == 0
    assert task.score(SUM, [said(" 46")]).text == " 46"


def test_stops_are_the_users_or_a_newline_for_golds_of_one_line() -> None:
    poem = Item(id="1", fields={"q": "A poem", "a": "two\nlines"})
    [request] = generate(metric="contains").requests(poem)
    assert isinstance(request, Generate)
    assert request.stop == ()
    [request] = generate(stop=[]).requests(SUM)
    assert isinstance(request, Generate)
    assert request.stop == ()


@pytest.mark.parametrize(
    ("metric", "text", "gold", "right"),
    [
        ("exact_match", " Paris \nand more", "Paris", True),
        ("exact_match", "paris", "Paris", False),
        ("exact_match", "Paris.", "Paris", False),
        ("exact_match", "\nParis", "Paris", False),
        ("contains", "in Paris.", " Paris ", True),
        ("contains", "in paris.", "Paris", False),
        ("number", "it is 1,234.50.", "#### 1234.5", True),
        ("number", "3 or 4", "3", False),
        ("number", "x = -7", "-7", True),
        ("number", "9-7", "7", True),
        ("number", "none", "7", False),
        ("number", "2024, 12,", "12", True),
    ],
)
def test_metrics(metric: str, text: str, gold: str, right: bool) -> None:
    assert METRICS[metric](text, gold) is right


def test_regex_compares_its_group() -> None:
    task = generate(metric="regex", pattern=r"answer is (\d+)|nothing")
    assert task.score(SUM, [said("the answer is 46, not 7")]).value == 1
    assert task.score(SUM, [said("the answer is 47")]).value == 0
    assert task.score(SUM, [said("nothing")]).value == 0


@pytest.mark.parametrize(
    ("pattern", "text"),
    [(r"(4{1,2}6)", "446"), (r"(foo\{e<=1})", "foo{e<=1}"), (r"boxed{(.*)}", "boxed{446}"), (r"(\d{2,}?6)", "446")],
)
def test_a_pattern_means_what_it_means_to_re(pattern: str, text: str) -> None:
    found = re.search(pattern, text)
    assert found
    item = Item(id="1", fields={"q": "", "a": found[1]})
    assert generate(metric="regex", pattern=pattern).score(item, [said(text)]).value == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"metric": "regex"},
        {"pattern": "(.)"},
        {"metric": "regex", "pattern": "no group"},
        {"metric": "regex", "pattern": "("},
        {"metric": "regex", "pattern": "(foo){e<=1}"},
        {"metric": "regex", "pattern": "(foo){2i+1s<=3}"},
        {"metric": "regex", "pattern": "([[:alpha:]]+)"},
        {"metric": "regex", "pattern": r"(\p{L}+)"},
        {"metric": "accuracy"},
        {"max_tokens": 0},
        {"stop": [""]},
        {"chunk": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        generate(**changes)


@pytest.mark.parametrize(
    ("gold", "metric"), [("", "exact_match"), ("two\nlines", "exact_match"), (" ", "contains"), ("seven", "number")]
)
def test_a_gold_that_no_answer_can_match_is_refused(gold: str, metric: str) -> None:
    with pytest.raises(InputError, match="no response can match"):
        generate(metric=metric).requests(Item(id="1", fields={"q": "", "a": gold}))


def test_an_unknown_field_names_those_present() -> None:
    with pytest.raises(InputError) as caught:
        generate(prompt="{question}").requests(SUM)
    assert caught.value.got == "a, q"
    with pytest.raises(InputError, match="no field `gold`"):
        generate(answer="gold").requests(SUM)


@pytest.mark.parametrize("prompt", ["{", "{}", "{q.x}", "{q[0]!z}", "{q:d}"])
def test_a_prompt_that_cannot_be_filled(prompt: str) -> None:
    with pytest.raises(InputError):
        generate(prompt=prompt).requests(SUM)


def test_examples_are_rendered_as_the_prompt_is() -> None:
    shots = generate(few_shot=[{"q": "1 + 1", "a": 2}, {"q": "2 + 2", "a": 4}])
    assert shots.render(SUM).text == "1 + 1 = 2\n\n2 + 2 = 4\n\n34 + 12 ="
    assert generate(few_shot="Add!\n").render(SUM).text == "Add!\n34 + 12 ="
    with pytest.raises(InputError, match="item `few_shot 0` has no field `a`"):
        generate(few_shot=[{"q": "1 + 1"}]).requests(SUM)


def test_a_chat_has_a_system_message_and_plain_text_has_none() -> None:
    prompt = generate(chat_template=True, system="Be brief.").render(SUM)
    assert prompt == Prompt(text="34 + 12 =", chat=True, system="Be brief.")
    with pytest.raises(InputError, match="needs a chat template"):
        generate(system="Be brief.").requests(SUM)


def test_a_choice_task_asks_for_every_option() -> None:
    prompt = Prompt(text="France:")
    assert choice().requests(CAPITAL) == [
        Loglikelihood(prompt=prompt, continuation=" Rome"),
        Loglikelihood(prompt=prompt, continuation=" Paris, the city of light"),
    ]
    [chat, _] = choice(chat_template=True).requests(CAPITAL)
    assert isinstance(chat, Loglikelihood)
    assert chat.continuation == "Rome"


def test_length_decides_how_options_compare() -> None:
    responses = [said(logprobs=[-4.0]), said(logprobs=[-4.0, -4.0, -4.0])]  # 4 and 24 characters, 1 and 3 tokens
    assert choice(normalize="none").score(CAPITAL, responses).text == "Rome"
    assert choice(normalize="tokens").score(CAPITAL, responses).text == "Rome"
    answer = choice(normalize="characters").score(CAPITAL, responses)
    assert (answer.text, answer.value) == ("Paris, the city of light", 1)


@pytest.mark.parametrize(
    ("normalize", "margin"), [("none", 8.0), ("tokens", 0.0), ("characters", 24 * (-12 / 24 + 4 / 4))]
)
def test_a_margin_is_in_nats_of_the_whole_answer(normalize: Any, margin: float) -> None:
    """How far the likelihood of the chosen option must fall for the other to be taken, whatever divides it."""
    responses = [said(logprobs=[-4.0]), said(logprobs=[-4.0, -4.0, -4.0])]
    answer = choice(normalize=normalize).score(CAPITAL, responses)
    assert answer.margin == pytest.approx(margin)


@pytest.mark.parametrize("gold", [0, "0", "Rome"])
def test_a_gold_option_is_an_index_or_a_text(gold: object) -> None:
    item = Item(id="1", fields={**CAPITAL.fields, "a": gold})  # type: ignore[dict-item]
    assert choice().score(item, [said(), said(logprobs=[-99.0])]).value == 1
    assert choice(few_shot=[dict(item.fields)]).render(CAPITAL).text == "France: Rome\n\nFrance:"


@pytest.mark.parametrize("gold", ["0", 0])
def test_an_option_that_reads_like_an_index_is_refused_until_the_spec_says_which_it_is(gold: object) -> None:
    item = Item(id="1", fields={"q": "", "options": ["1", "0"], "a": gold})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="can be read in two ways"):
        choice().requests(item)
    assert choice(gold_is="text").shown(item) == "0"
    assert choice(gold_is="index").shown(item) == "1"


def test_options_may_stand_in_fields_of_their_own() -> None:
    item = Item(id="1", fields={"q": "", "x": "yes", "y": "no", "a": "no"})
    assert [r.continuation for r in choice(choices=["x", "y"]).requests(item)] == [" yes", " no"]


@pytest.mark.parametrize("gold", [2, -1, "Berlin", "2", None, 0.5])
def test_a_gold_that_is_no_option_is_refused(gold: object) -> None:
    with pytest.raises(InputError, match="no response can match"):
        choice().requests(Item(id="1", fields={**CAPITAL.fields, "a": gold}))  # type: ignore[dict-item]


@pytest.mark.parametrize("options", ["Rome", ["Rome"], [], ["Rome", ""]])
def test_options_that_are_none_are_refused(options: object) -> None:
    with pytest.raises(InputError, match="no list of options"):
        choice().requests(Item(id="1", fields={"q": "", "options": options, "a": 0}))  # type: ignore[dict-item]


def test_likelihood_is_nats_a_token_of_the_gold_answer() -> None:
    """The answer follows a space where the prompt does not end with one; a chat's template begins it."""
    task = LikelihoodTask(kind="likelihood", name="t", items="x", prompt="Q: {q}\nA:", answer="a")
    item = Item(id="1", fields={"q": "one", "a": [" un ", "une"]})
    [request] = task.requests(item)
    assert (request.prompt.text, request.continuation) == ("Q: one\nA:", " un")
    response = Response(text="", token_ids=(1, 2), logprobs=(-0.5, -1.5), prompt_tokens=3)
    assert task.score(item, [response]).value == 1.0
    assert not task.higher_is_better
    chat = task.model_copy(update={"chat_template": True})
    assert chat.requests(item)[0].continuation == "un"
    with pytest.raises(InputError, match="not empty"):
        task.requests(Item(id="2", fields={"q": "one", "a": " "}))
    with pytest.raises(InputError, match="field"):
        task.model_copy(update={"prompt": "A:"}).requests(item)


def test_perplexity_is_nats_a_token_and_lower_is_better() -> None:
    task = PerplexityTask(kind="perplexity", name="t", items="x")
    item = Item(id="1", fields={"text": "Once upon"})
    assert task.requests(item) == [Loglikelihood(prompt=Prompt(text=""), continuation="Once upon")]
    assert math.isclose(task.score(item, [said(logprobs=[-1.0, -2.0])]).value, 1.5)
    assert not task.higher_is_better
    with pytest.raises(InputError, match="has no text"):
        task.requests(Item(id="1", fields={"text": " "}))


def test_tasks_are_loaded_with_their_items_and_every_item_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text('{"q": "1 + 1", "a": "2"}\n{"q": "1 + 2", "a": "3"}\n')
    settings = {"name": "sums", "kind": "generate", "items": "sums.jsonl", "prompt": "{q} =", "answer": "a"}
    adapter: TypeAdapter[TaskConfig] = TypeAdapter(AnyTaskConfig)
    config = adapter.validate_python(settings, context={"folder": tmp_path})
    [task] = load_tasks([config])
    assert (task.name, task.higher_is_better, len(task.items)) == ("sums", True, 2)
    assert adapter.validate_json(json.dumps(config.model_dump(mode="json"))) == config
    with path.open("a") as file:
        file.write('{"q": "1 + 3"}\n')
    with pytest.raises(InputError, match="has no field `a`"):
        load_tasks([config])


def test_calibration_is_the_gold_after_the_prompt() -> None:
    assert generate().calibration(SUM) == Loglikelihood(prompt=Prompt(text="34 + 12 ="), continuation=" 46\n")
    spaced = Item(id="1", fields={"q": "34 + 12", "a": " 46 "})
    assert generate(prompt="{q} = ", stop=[".", ";"]).calibration(spaced).continuation == "46."
    poem = Item(id="1", fields={"q": "", "a": "two\nlines"})
    assert generate(metric="contains").calibration(poem).continuation == " two\nlines"
    chat = generate(chat_template=True, system="Add.").calibration(SUM)
    assert chat == Loglikelihood(prompt=Prompt(text="34 + 12 =", chat=True, system="Add."), continuation="46")


def test_calibration_of_a_choice_is_its_gold_option() -> None:
    task = choice()
    assert task.calibration(CAPITAL) == task.requests(CAPITAL)[1]
    assert task.calibration(CAPITAL).continuation == " Paris, the city of light"


def test_calibration_of_a_text_is_the_text() -> None:
    item = Item(id="1", fields={"text": "Once upon a time."})
    task = PerplexityTask(kind="perplexity", name="t", items="x")
    assert task.calibration(item) == Loglikelihood(prompt=Prompt(text=""), continuation="Once upon a time.")


def test_a_missing_package_is_said_with_the_metric_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "items.jsonl").write_text('{"q": "Red?", "a": "yes"}\n')
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    task = GenerateTask.model_validate(
        {"name": "red", "kind": "generate", "items": str(tmp_path / "items.jsonl"), "prompt": "{q}", "answer": "a"}
        | {"metric": {"all": ["contains", "chrf"]}}
    )
    with pytest.raises(MissingExtra, match=r"(?s)`sacrebleu`.*task `red`, metric `chrf`.*crossbreed\[metrics\]"):
        load_tasks([task])
