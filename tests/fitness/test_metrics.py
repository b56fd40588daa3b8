"""Each metric against a table of cases checked by hand, against its library, and against what holds for any texts."""

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from crossbreed.errors import EngineError, InputError, is_installed
from crossbreed.fitness import METRICS, AnyTaskConfig, GenerateTask, Item, Response, TaskConfig
from crossbreed.fitness.tasks.metrics import comparison_of
from crossbreed.fitness.tasks.metrics.mathematical import Beside
from crossbreed.fitness.tasks.metrics.overlap import _longest_common

HAS = {name: all(map(is_installed, METRICS[name].needs)) for name in METRICS}
"""Metric -> whether its library is installed: those of the extra `metrics` are not in the tested set."""
SCHEMA = {
    "type": "object",
    "required": ["n"],
    "properties": {"n": {"$ref": "#/$defs/count"}},
    "$defs": {"count": {"type": "integer", "minimum": 0}},
}
HALF = r"\frac{1}{2}"


def value_of(written: Any, text: str, gold: str, fields: Mapping[str, Any] | None = None) -> float:
    comparison = comparison_of(written)
    for single in comparison.singles():
        single.require()
    return comparison.value(text, gold, fields or {})


def names_in(written: Any) -> Iterator[str]:
    yield from (single.name for single in comparison_of(written).singles())


PLAIN = [
    # what is said, as it is said
    ("exact_match", "Zürich", "Zu\u0308rich", 1),
    ("exact_match", "", "x", 0),
    ("exact_match", "-0", "0", 0),
    ("contains", "1,000 euros", "1000", 0),
    ("number", "it is 1,234,567.", "1234567", 1),
    ("number", "it is 1 000", "1000", 1),
    ("number", "it is 1 234 567", "1234567", 0),  # two numbers?
    ("number", "1.234", "1234", 0),
    ("number", "-0", "0", 1),
    ("number", "\u22120.0", "0", 1),
    ("number", r"$\frac{3}{4}$", "0.75", 1),
    ("number", "\n\n7\n", "7", 1),
    ("number", "", "0", 0),
    ("number", "\uff11\uff12", "12", 1),
    # letters
    ("choice_letter", "B", "B", 1),
    ("choice_letter", "b", "B", 1),
    ("choice_letter", " (B)\n", "(b)", 1),
    ("choice_letter", "**B**", "B", 1),
    ("choice_letter", "B. Paris is the capital", "B", 1),
    ("choice_letter", "B) because A is wrong", "B", 1),
    ("choice_letter", "The answer is C, not A.", "C", 1),
    ("choice_letter", "Not A. So the answer is: (D)", "D", 1),
    ("choice_letter", "The answer is **option B**", "B", 1),
    ("choice_letter", r"so \boxed{C}", "C", 1),
    ("choice_letter", r"\boxed{\text{A}} or B", "A", 1),
    ("choice_letter", "Réponse : B", "B", 1),
    ("choice_letter", "答えはCです", "C", 1),
    ("choice_letter", "\uff22", "B", 1),
    ("choice_letter", "A dog has four legs", "A", 0),
    ("choice_letter", "I think it is B", "B", 1),
    ("choice_letter", "A or B", "A", 0),
    ("choice_letter", "A or B", "B", 0),
    ("choice_letter", "A is right.", "A", 1),
    ("choice_letter", "ABBA", "A", 0),
    ("choice_letter", "U.S.A.", "A", 0),
    ("choice_letter", "It's a vitamin: B12", "B", 0),
    ("choice_letter", "", "A", 0),
    # words in common
    ("f1", "the Eiffel Tower", "Eiffel Tower", 1),
    ("f1", "The  EIFFEL\ntower!", "eiffel tower", 1),
    ("f1", "tower", "Eiffel Tower", 2 / 3),
    ("f1", "a b c d", "b d x", 2 * 2 / (3 + 3)),
    ("f1", "very very good", "very good", 0.8),
    ("f1", "", "Paris", 0),
    ("f1", "\n", "Paris", 0),
    ("f1", "“Paris”", "Paris", 1),
    ("f1", "Zu\u0308rich", "Zürich", 1),
    ("f1", "1,000", "1000", 1),
    ("f1", "東京都", "東京", 0.8),
    ("rouge_l", "police killed the gunman", "police kill the gunman", 0.75),
    ("rouge_l", "gunman the killed police", "police killed the gunman", 0.25),
    ("rouge_l", "a b c d e", "b d", 2 * 2 / 7),
    ("rouge_l", "", "x", 0),
    ("rouge_l", "one\ntwo", "one two", 1),
    ("rouge_l", "É à", "é À", 1),
    ("rouge_l", "-0", "0", 1),
    ("rouge_l", "снег идёт", "идёт снег", 0.5),
    # JSON
    ("json", '{"a": 1}', "", 1),
    ("json", " [1, 2]\n", "", 1),
    ("json", "-0", "", 1),
    ("json", '"é"', "", 1),
    ("json", '```json\n{"a": 1}\n```', "", 1),
    ("json", "```\n[]\n```", "", 1),
    ("json", 'Sure: {"a": 1}', "", 0),
    ("json", "{'a': 1}", "", 0),
    ("json", "[1,]", "", 0),
    ("json", "NaN", "", 0),
    ("json", '{"a": 1, "a": 2}', "", 0),
    ("json", "1,000", "", 0),
    ("json", "", "", 0),
    ("json", "[" * 100_000, "", 0),
    ("json", "9" * 10_000, "", 0),
    ({"json_schema": SCHEMA}, '{"n": 3}', "", 1),
    ({"json_schema": SCHEMA}, '{"n": -0}', "", 1),
    ({"json_schema": SCHEMA}, '{"n": -1}', "", 0),
    ({"json_schema": SCHEMA}, '{"n": "3"}', "", 0),
    ({"json_schema": SCHEMA}, "{}", "", 0),
    ({"json_schema": SCHEMA}, "3 apples", "", 0),
    # patterns and combinations
    ({"regex": r"is (\w+)"}, "it is B", "B", 1),
    ({"all": ["number", "json"]}, "46", "46", 1),
    ({"all": ["number", "json"]}, "it is 46", "46", 0),
    ({"any": ["number", "json"]}, "it is 46", "46", 1),
    ({"any": ["exact_match", {"regex": "is (.*)"}]}, "it is 46", "46", 1),
    ({"all": ["f1", "json"]}, '"Eiffel"', "Eiffel Tower", 2 / 3),
    ({"any": ["f1", "exact_match"]}, "tower", "Eiffel Tower", 2 / 3),
    ({"all": [{"any": ["exact_match", "number"]}, "contains"]}, "46.0", "46", 1),
]
MATHS = [
    (HALF, "0.5", 1),
    (rf"The answer is ${HALF}$.", "1/2", 1),
    (r"\dfrac{1}{2}", HALF, 1),
    ("0.5", HALF, 1),
    (r"\boxed{\frac{2}{4}}", HALF, 1),
    ("-0", "0", 1),
    ("$-0$", "0", 1),
    ("1,000", "1000", 1),
    ("it is 12,345", "12345", 1),
    (r"$1{,}000$", "1000", 1),
    (r"$x^2+2x+1$", "$(x+1)^2$", 1),
    (r"$2\sqrt{2}$", r"$\sqrt{8}$", 1),
    (r"$\sqrt{8}$", r"$\sqrt{9}$", 0),
    ("7", "8", 0),
    ("", "8", 0),
    ("\n", "8", 0),
    ("no idea", "8", 0),
    (r"\frac{1}{", HALF, 0),
    ("\u00bd and é", "8", 0),
]


@pytest.mark.parametrize(("written", "text", "gold", "value"), PLAIN, ids=str)
def test_by_hand(written: Any, text: str, gold: str, value: float) -> None:
    if not all(HAS[name] for name in names_in(written)):
        pytest.skip("the extra `metrics` is not installed")
    assert value_of(written, text, gold) == pytest.approx(value, abs=1e-12)


@pytest.mark.skipif(not HAS["math"], reason="the extra `metrics` is not installed")
@pytest.mark.parametrize(("text", "gold", "value"), MATHS)
def test_expressions_by_hand(text: str, gold: str, value: float) -> None:
    assert value_of("math", text, gold) == value


@pytest.mark.skipif(not HAS["math"], reason="the extra `metrics` is not installed")
def test_an_expression_that_takes_for_ever_is_not_equal() -> None:
    """And the next one is compared again, by a new process."""
    beside = Beside(seconds=1)
    assert not beside.tells("$9^{9^{9^{9}}}$", "8")
    assert beside.tells("$4+4$", "8")
    beside.close()


@pytest.mark.skipif(not HAS["math"], reason="the extra `metrics` is not installed")
def test_a_process_that_is_killed_has_measured_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Beside()
    assert beside.tells("8", "8")
    assert beside._process
    beside._process.kill()
    with pytest.raises(EngineError, match="ended with code -9"):
        beside.tells("8", "8")
    assert beside.tells("8", "8")
    beside.close()
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(EngineError, match="ended with code 1"):
        Beside().tells("8", "8")


@pytest.mark.skipif(not HAS["chrf"], reason="the extra `metrics` is not installed")
@pytest.mark.parametrize("name", ["chrf", "bleu"])
@pytest.mark.parametrize(
    ("text", "gold", "low", "high"),
    [
        ("The cat sat on the mat.", "The cat sat on the mat.", 1, 1),
        ("Ein Zürcher", "Ein Zu\u0308rcher", 1, 1),
        ("", "x", 0, 0),
        ("\n", "x", 0, 0),
        ("q", "x", 0, 0),
        ("The cat sat on a mat.", "The cat sat on the mat.", 0.3, 0.99),
        ("1000", "1,000", 0, 0.99),
        ("x", "x", 1, 1),
    ],
)
def test_overlap_of_characters_and_words(name: str, text: str, gold: str, low: float, high: float) -> None:
    assert low <= value_of(name, text, gold) <= high


@pytest.mark.skipif(not HAS["chrf"], reason="the extra `metrics` is not installed")
@pytest.mark.parametrize(
    ("text", "gold"), [("the cat sat", "a cat sat down"), ("été à Paris", "l'été à Paris"), ("b", "a b")]
)
def test_sacrebleu_says_the_same(text: str, gold: str) -> None:
    import sacrebleu

    assert value_of("chrf", text, gold) == sacrebleu.sentence_chrf(text, [gold]).score / 100
    assert value_of("bleu", text, gold) == sacrebleu.sentence_bleu(text, [gold]).score / 100


@pytest.mark.skipif(not is_installed("rouge_score"), reason="rouge-score is not installed")
@given(text=st.text("ab c,", max_size=20), gold=st.text("ab c,", max_size=20))
def test_rouge_score_says_the_same(text: str, gold: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    expected = RougeScorer(["rougeL"]).score(gold, text)["rougeL"].fmeasure
    assert value_of("rouge_l", text, gold) == pytest.approx(expected)


@pytest.mark.skipif(not HAS["language"], reason="the extra `metrics` is not installed")
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("quarante-deux moutons dans le pré", "fr"),
        ("forty-two sheep in the meadow", "en"),
        ("zweiundvierzig Schafe auf der Wiese", "de"),
        ("42", None),
        ("", None),
        ("\n", None),
    ],
)
def test_languages(text: str, code: str | None) -> None:
    among = ["fr", "en", "de"]
    said = {one: value_of({"language": {"code": one, "among": among}}, text, "") for one in among}
    assert said == {one: float(one == code) for one in among}


def test_right_and_in_the_right_language() -> None:
    if not HAS["language"]:
        pytest.skip("the extra `metrics` is not installed")
    metric = {"all": ["number", {"language": {"code": "fr", "among": ["fr", "en"]}}]}
    assert value_of(metric, "Il y en a quarante-deux, donc la réponse est 42.", "42") == 1
    assert value_of(metric, "There are forty-two of them, so the answer is 42.", "42") == 0
    assert value_of(metric, "Il y en a quarante-trois, donc la réponse est 43.", "42") == 0


def lcs_by_table(a: str, b: str) -> int:
    rows = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            rows[i + 1][j + 1] = rows[i][j] + 1 if one == other else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


@given(a=st.text("abc", max_size=70), b=st.text("abc", max_size=70))
def test_the_longest_common_sequence(a: str, b: str) -> None:
    assert _longest_common(a, b) == lcs_by_table(a, b) == _longest_common(b, a)


OVERLAPS = [name for name in ("f1", "rouge_l", "chrf", "bleu") if HAS[name]]
TEXTS = st.text(max_size=30) | st.text("aé B.-0,1\n東", max_size=30)


@pytest.mark.parametrize(
    "name", [name for name in METRICS if HAS[name] and not METRICS[name].has_setting and name != "math"]
)
@settings(max_examples=40)
@given(text=TEXTS, gold=TEXTS)
def test_any_text_has_a_value_from_0_to_1_and_the_gold_has_1(name: str, text: str, gold: str) -> None:
    metric = METRICS[name]
    assert 0 <= metric(text, gold) <= 1
    if metric.uses_gold and metric.can_match(gold):
        assert metric(gold, gold) == pytest.approx(1)


@pytest.mark.parametrize("name", ["f1", "rouge_l"])
@settings(max_examples=60)
@given(text=TEXTS, gold=TEXTS)
def test_what_is_in_common_is_symmetric(name: str, text: str, gold: str) -> None:
    assert METRICS[name](text, gold) == METRICS[name](gold, text)


@settings(max_examples=60)
@given(text=TEXTS, gold=TEXTS)
def test_combinations_are_the_lowest_and_the_highest(text: str, gold: str) -> None:
    parts = ["f1", "json", "contains"]
    values = [value_of(part, text, gold) for part in parts]
    assert value_of({"all": parts}, text, gold) == min(values)
    assert value_of({"any": parts}, text, gold) == max(values)


# Programs


SQUARE = {"tests": "assert square(3) == 9\nassert square(-2) == 4"}


def passes(text: str, fields: Mapping[str, Any] = SQUARE, **changes: Any) -> float:
    setting = {"tests": "tests", "allow": "running_generated_code", "seconds": 1, **changes}
    return value_of({"passes_tests": setting}, text, "", fields)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("def square(x):\n    return x * x", 1),
        ("Here it is:\n```python\ndef square(x):\n    return x * x\n```\nDone.", 1),
        ("```\ndef square(x):\n    return x ** 2", 1),
        ("def square(x):\n    return 2 * x", 0),
        ("def square(x) return", 0),
        ("", 0),
        ("é", 0),
        ("import sys\nsys.exit(0)", 0),
        ("import os\nos._exit(0)", 0),
        ("def square(x):\n    while True: pass", 0),
        ("x = ' ' * (1 << 40)\ndef square(x):\n    return x * x", 0),
        ("open('kept', 'w').write('x')\ndef square(x):\n    return x * x", 1),
    ],
)
def test_programs_pass_their_tests_or_do_not(text: str, value: float) -> None:
    assert passes(text) == value


@pytest.mark.parametrize(
    "attempt",
    [
        "open('{outside}', 'w')",
        "import os; os.remove('{inside}')",
        "import os; os.rename('{inside}', 'mine')",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.socket()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import os; os.kill(os.getppid(), 9)",
    ],
)
def test_accidents_stay_in(attempt: str, tmp_path: Path) -> None:
    """Each is refused by a PermissionError, which the program sees."""
    (tmp_path / "kept").write_text("x")
    attempt = attempt.format(outside=tmp_path / "new", inside=tmp_path / "kept")
    refused = f"try:\n    {attempt}\nexcept PermissionError:\n    was_refused = True\n"
    assert passes(refused, {"tests": "assert was_refused"}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_begins_a_program_and_lists_of_tests() -> None:
    fields = {"start": "def square(x):\n", "tests": ["assert square(3) == 9", "assert square(0) == 0"]}
    assert passes("    return x * x", fields, before="start") == 1
    assert passes("    return x + 6", fields, before="start") == 0


# What a spec writes


def task(**changes: Any) -> GenerateTask:
    given = {"kind": "generate", "name": "t", "items": "x", "prompt": "{q}", "answer": "a", **changes}
    made = TypeAdapter[TaskConfig](AnyTaskConfig).validate_python(given)
    assert isinstance(made, GenerateTask)
    return made


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("f1", "f1"),
        ({"regex": "(.)"}, "regex"),
        ({"json_schema": SCHEMA}, "json_schema"),
        ({"all": ["number", {"any": ["json", "f1"]}]}, "number and (json or f1)"),
        ({"all": ["number", {"language": {"code": "fr", "among": ["en", "fr"]}}]}, "number and language"),
    ],
    ids=str,
)
def test_a_comparison_survives_json_and_pickle(metric: Any, name: str) -> None:
    made = task(metric=metric)
    assert made.metric_name == name
    again = task(**json.loads(made.model_dump_json(include={"metric"})))
    assert again == made == pickle.loads(pickle.dumps(made))
    assert made.identity()["metric"] == metric


def test_the_best_of_several_golds_counts_for_all_parts_at_once() -> None:
    item = Item(id="1", fields={"q": "?", "a": ["4", "5"]})
    made = task(metric={"all": ["number", {"regex": "is (.)"}]})

    def value(text: str) -> float:
        return made.score(item, [Response(text=text, token_ids=(), logprobs=(), prompt_tokens=1)]).value

    assert (value("it is 4"), value("it is 5"), value("it is 4 or 5")) == (1, 1, 0)


@pytest.mark.parametrize(
    ("metric", "golds"),
    [
        ("f1", ["the", "...", ""]),
        ("rouge_l", ["...", " "]),
        ("choice_letter", ["Paris", "AB", ""]),
        ("number", ["seven"]),
        ({"all": ["f1", "number"]}, ["seven"]),
        *([("chrf", [""]), ("bleu", ["", " "])] if HAS["chrf"] else []),
        *([("math", ["nothing to read", ""])] if HAS["math"] else []),
    ],
    ids=str,
)
def test_golds_that_nothing_matches_are_refused(metric: Any, golds: list[str]) -> None:
    for gold in golds:
        with pytest.raises(InputError, match="no response can match"):
            task(metric=metric).requests(Item(id="1", fields={"q": "?", "a": gold}))


def test_an_alternative_may_match_what_another_cannot() -> None:
    assert task(metric={"any": ["number", "exact_match"]}).requests(Item(id="1", fields={"q": "?", "a": "seven"}))


def test_a_task_without_a_gold() -> None:
    made = task(metric="json", answer="")
    item = Item(id="1", fields={"q": "?"})
    assert made.requests(item)[0].stop == ()
    assert (made.shown(item), made.right_texts(item), made.needed(item)) == ("", (), ())
    with pytest.raises(InputError, match="no correct answers"):
        made.calibration(item)
    with pytest.raises(ValidationError, match="name the field that holds it in `answer`"):
        task(metric="f1", answer="")


def test_a_schema_in_a_file_is_part_of_a_run_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "two.json").write_text(json.dumps(SCHEMA))
    one, two = (task(metric={"json_schema": str(tmp_path / f"{name}.json")}) for name in ("one", "two"))
    assert one.identity() == two.identity() != task(metric={"json_schema": {}}).identity()
    (tmp_path / "two.json").write_text("{}")
    assert one.identity() != two.identity()
