"""Answers in rows: what a person reads on a terminal."""

import pytest

from crossbreed.fitness import ChoiceTask, GenerateTask, Item, PerplexityTask, Task, TaskConfig
from crossbreed.runs.results.answers import AnswerRow, Questions, ShownQuestion, rows_text

ASKED = {"name": "t", "items": "-", "prompt": "{q}:", "answer": "a"}


def row(value: float, *, answer: str | None = "17", less_is_better: bool = False, item_id: str = "a") -> AnswerRow:
    asked = ShownQuestion(question="What is\n8 + 9?", gold="17")
    return AnswerRow(
        task="sums", item_id=item_id, asked=asked, answers=(answer,), values=(value,), less_is_better=less_is_better
    )


def text(*rows: AnswerRow, only_wrong: bool = False) -> str:
    return "\n".join(rows_text(rows, only_wrong=only_wrong))


def test_a_row_has_question_gold_and_answer() -> None:
    assert text(row(1.0), row(0.0, answer="18\n", item_id="b")) == (
        "sums: 1 of 2 right\n"
        "  right  a\n    question  What is\n              8 + 9?\n    gold      17\n    answer    17\n"
        "  wrong  b\n    question  What is\n              8 + 9?\n    gold      17\n    answer    18"
    )


def test_the_wrong_ones_alone() -> None:
    shown = text(row(1.0), row(0.0, item_id="b"), only_wrong=True)
    assert shown.startswith("sums: 1 of 2 right\n  wrong  b\n")
    assert "right  a" not in shown


def test_a_degree_is_neither_right_nor_wrong() -> None:
    assert text(row(0.375), row(0.5)).startswith("sums: 2 items, mean 0.4375\n  0.375  a")
    assert row(0.375).is_right == (None,)
    assert "  0.375  a" in text(row(0.375), only_wrong=True)


def test_where_less_is_better_one_is_not_right() -> None:
    assert row(1.0, less_is_better=True).is_right == (None,)
    assert row(1.0, less_is_better=True).to_json()["right"] == [None]


def test_what_moves_a_cursor_is_shown_as_text() -> None:
    shown = text(row(0.0, answer="\x1b[2Jgone\r\u202eneht", item_id="\x1b[3J"))
    assert "\\x1b[2Jgone\\r\\u202eneht" in shown
    assert "\x1b" not in shown


def test_what_is_not_at_hand_is_left_out() -> None:
    found = AnswerRow(task="t", item_id="i", asked=None, answers=(None,), values=(0.0,), less_is_better=False)
    assert text(found) == "t: 0 of 1 right\n  wrong  i"


@pytest.mark.parametrize(
    ("kind", "gold", "shown"),
    [
        (GenerateTask(kind="generate", **ASKED), ["Kyiv", "Kiev", "Kyiv "], "Kyiv | Kiev"),
        (GenerateTask(kind="generate", metric="number", **ASKED), [46, "46.5"], "46 | 46.5"),
        (GenerateTask(kind="generate", **ASKED), "Kyiv", "Kyiv"),
        (ChoiceTask(kind="choice", choices="o", **ASKED), "B", "Riga"),
        (PerplexityTask(kind="perplexity", name="t", items="-", text="q"), "", ""),
    ],
)
def test_all_right_answers_are_shown_beside_the_one_that_was_given(kind: TaskConfig, gold: object, shown: str) -> None:
    item = Item(id="a", fields={"q": "Where", "a": gold, "o": ["Kyiv", "Riga"]})  # type: ignore[dict-item]
    asked = Questions([Task(kind=kind, items=(item,))]).find("t", "a")
    assert asked is not None
    assert asked.gold == shown
