"""What is read in a judge's text; what can be read in two ways is no verdict."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossbreed.fitness.tasks.metrics.judge.metric import Judge
from crossbreed.fitness.tasks.metrics.judge.reading import NoVerdict, verdict_in

YES_OR_NO = [
    ("Yes", 1),
    ("yes.", 1),
    ("**No**", 0),
    (" NO\n", 0),
    ("Yes, because there is no error", 1),
    ("Yes - it is right", 1),
    ("No. It says 4, which is wrong.", 0),
    ("There is no error, so the answer is yes.", 1),
    ("There is no error.\n\nVerdict: **Yes**", 1),
    ("Answer:no", 0),
    ("true", 1),
]
NO_WORDS = [
    "",
    "\n",
    "No doubt that it is right",
    "It is right",
    "Yes. Or rather: no",
    "yesterday",
    "ja",
    "10",
    "Notes",
]
ON_TEN = [
    ("7", 0.7),
    ("7.5", 0.75),
    ("Rating: [[8]]", 0.8),
    ("[[8]], and not [[8.0]]: of 10 points", 0.8),
    ("I give 7/10 for 3 mistakes", 0.7),
    ("9 out of 10.", 0.9),
    ("3 mistakes were made. Rating: 4", 0.4),
    ("4. It has 3 mistakes", 0.4),
    ("10/10", 1),
    ("**0**", 0),
]
NO_MARKS = ["", "eleven", "11", "-1", "12/10", "[[3]] or [[4]]", "7 because of 3 mistakes", "3. No: 4", "1e400"]


@pytest.mark.parametrize(("text", "value"), YES_OR_NO)
def test_yes_or_no(text: str, value: float) -> None:
    if text == "true":
        assert verdict_in('{"ok": true}', scale=None, pattern=None, key="ok") == value
    else:
        assert verdict_in(text, scale=None, pattern=None, key=None) == value


@pytest.mark.parametrize("text", NO_WORDS)
def test_neither_yes_nor_no(text: str) -> None:
    with pytest.raises(NoVerdict):
        verdict_in(text, scale=None, pattern=None, key=None)


@pytest.mark.parametrize(("text", "value"), ON_TEN)
def test_a_mark(text: str, value: float) -> None:
    assert verdict_in(text, scale=(0, 10), pattern=None, key=None) == pytest.approx(value)


@pytest.mark.parametrize("text", NO_MARKS)
def test_no_mark(text: str) -> None:
    with pytest.raises(NoVerdict):
        verdict_in(text, scale=(0, 10), pattern=None, key=None)


@given(st.text())
def test_any_text_has_a_verdict_from_0_to_1_or_none(text: str) -> None:
    for scale in (None, (1.0, 5.0)):
        for key in (None, "score"):
            with suppress(NoVerdict):
                assert 0 <= verdict_in(text, scale=scale, pattern=None, key=key) <= 1


def judge(**settings: object) -> Judge:
    return Judge.model_validate({"url": "http://a.test", "model": "m", "prompt": "{response}", **settings})


def test_a_verdict_where_the_spec_says_that_it_stands() -> None:
    assert judge(pattern="score is (\\d)", scale=[1, 5]).value_of("The score is 4, not 5") == 0.75
    assert judge(json_key="score", scale=[1, 5]).value_of('Sure:\n```json\n{"why": "no 5", "score": 2}\n```') == 0.25
    assert judge(json_key="ok").value_of('{"ok": false}') == 0
    for text in ("{}", '{"score": [1]}', '{"score": null}', "score: 1", '{"score": 1, "score": 2}', '{"score": "x"}'):
        with pytest.raises(NoVerdict):
            judge(json_key="score", scale=[1, 5]).value_of(text)


def test_what_changes_no_verdict_is_no_part_of_its_identity() -> None:
    one, other = judge(), judge(url="http://b.test", key_env="KEY", timeout=3, patience=1, concurrency=9)
    assert one.lasting() == other.lasting()
    for changed in ({"prompt": "Is {response} right?"}, {"model": "n"}, {"repeats": 2}, {"options": {"top_k": 1}}):
        assert judge(**changed).lasting() != one.lasting()
    assert one.body("x", 0) != one.body("x", 1)
