"""Wrong metrics, functions, options and samples through the command line: one screen each, exit 2, no traceback."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from in_process import exit_code_of
from toy_runs import journal_of, write_spec

MAX_LINES = 24
CODE = {"tests": "t", "allow": "running_generated_code"}
GENERATE = {"kind": "generate", "prompt": "{q}", "answer": "a"}
CHOICE = {"kind": "choice", "prompt": "{q}", "answer": "a", "choices": "options"}
PYTHON = {"kind": "python", "prompt": "{q}", "function": "own.py:score"}
OWN = """
def score(answers, items):
    return [1.0] * len(items)

def one(items):
    return []

def zero(answers, items):
    return [1 / 0]

def short(answers, items):
    return []
"""
CASES: dict[str, tuple[dict[str, Any], str]] = {
    # metrics
    "misspelt metric in a list": ({**GENERATE, "metric": {"all": ["numbr"]}}, "did you mean `number`?"),
    "no such setting": ({**GENERATE, "metric": {"f1": 2}}, "the metric `f1` takes no setting"),
    "two metrics in one mapping": ({**GENERATE, "metric": {"f1": 1, "json": 2}}, "a mapping with one key"),
    "a list of metrics": ({**GENERATE, "metric": ["f1", "json"]}, "a metric is a name, or a mapping with one key"),
    "a number": ({**GENERATE, "metric": 3}, "a metric is a name, or a mapping with one key"),
    "all of nothing": ({**GENERATE, "metric": {"all": []}}, "`all` of a metric is not a list of metrics"),
    "any of a text": ({**GENERATE, "metric": {"any": "f1"}}, "`any` of a metric is not a list of metrics"),
    "language without a code": ({**GENERATE, "metric": "language"}, "the metric `language` needs a setting"),
    "a language in words": ({**GENERATE, "metric": {"language": "french"}}, "metric"),
    "unknown key of a setting": (
        {**GENERATE, "metric": {"language": {"code": "fr", "amon": ["fr", "en"]}}},
        "did you mean `among`?",
    ),
    "regex in a list without a pattern": ({**GENERATE, "metric": {"all": ["regex"]}}, "needs a `pattern`"),
    "a pattern that is none": ({**GENERATE, "metric": {"regex": "(a"}}, "is not a regular expression"),
    "a pattern without a group": ({**GENERATE, "metric": {"any": [{"regex": "a"}]}}, "has no group"),
    "a pattern of numbers": ({**GENERATE, "metric": {"regex": 3}}, "the pattern of `regex` is not a text"),
    "a pattern beside a combination": (
        {**GENERATE, "metric": {"all": ["number"]}, "pattern": "(a)"},
        "takes no `pattern`",
    ),
    "no schema there": (
        {**GENERATE, "metric": {"json_schema": "none.json"}},
        "the JSON schema of a metric cannot be read",
    ),
    "a schema that is none": (
        {**GENERATE, "metric": {"json_schema": {"type": "objekt"}}},
        "the JSON schema of a metric is none",
    ),
    "a schema that fetches": (
        {**GENERATE, "metric": {"json_schema": {"$ref": "https://a.example/s"}}},
        "leads nowhere",
    ),
    "a schema with a broken part": ({**GENERATE, "metric": {"json_schema": {"$ref": "#/$defs/x"}}}, "leads nowhere"),
    "a schema file that is no JSON": (
        {**GENERATE, "metric": {"json_schema": "own.py"}},
        "the JSON schema of a metric cannot be read",
    ),
    "programs without the word": ({**GENERATE, "metric": {"passes_tests": {"tests": "t"}}}, "allow"),
    "programs with another word": (
        {**GENERATE, "metric": {"passes_tests": {**CODE, "allow": "yes"}}},
        "running_generated_code",
    ),
    "programs without tests in the items": ({**GENERATE, "metric": {"passes_tests": CODE}}, "no field `t`"),
    "no gold named": ({"kind": "generate", "prompt": "{q}"}, "name the field that holds it in `answer`"),
    "golds without a word": ({**GENERATE, "answer": "the", "metric": "f1"}, "can never be given"),
    "golds that are no letter": ({**GENERATE, "metric": "choice_letter", "answer": "word"}, "can never be given"),
    # samples
    "samples without a temperature": ({**GENERATE, "samples": 4}, "need a `temperature`"),
    "pass@ more than there are": (
        {**GENERATE, "samples": 2, "temperature": 1.0, "take": "pass@3"},
        "needs at least 3 `samples`",
    ),
    "an unknown way to take": ({**GENERATE, "samples": 2, "temperature": 1.0, "take": "best"}, "take"),
    "a vote without a key": (
        {**GENERATE, "samples": 2, "temperature": 1.0, "take": "majority", "metric": "f1"},
        "`take: majority` counts answers that say the same",
    ),
    "a cold temperature": ({**GENERATE, "temperature": -1}, "temperature"),
    "thoughts that are no pattern": ({**GENERATE, "thinking": "<think>(.*"}, "`thinking` is not a regular expression"),
    # options
    "letters that the prompt does not show": ({**CHOICE, "scored": "letter"}, "does not show the option"),
    "permuted chats": (
        {**CHOICE, "prompt": "", "messages": "q", "chat_template": True, "permute": True},
        "`permute` needs a `prompt`",
    ),
    # functions
    "no such file": ({**PYTHON, "function": "none.py:score"}, "cannot be read"),
    "no such function": ({**PYTHON, "function": "own.py:scor"}, "did you mean `score`?"),
    "no such module": ({**PYTHON, "function": "nowhere.at_all:score"}, "there is no module `nowhere.at_all`"),
    "a file alone": ({**PYTHON, "function": "own.py"}, "a function is named as `path.py:name`"),
    "other arguments": ({**PYTHON, "function": "own.py:one"}, "cannot be called with two arguments"),
    "a prompt without a function": ({"kind": "python", "prompt": "{q}"}, "needs a `function`"),
    "nobody scores": ({"kind": "python"}, "nobody scores the items of task `red`"),
    "a file that does not import": ({**PYTHON, "function": "broken.py:score"}, "line 1: import nothing_of_that_name"),
    "another source": ({**PYTHON, "function": "own.py:score@0123456789ab"}, "is another one"),
}


@pytest.fixture
def spec(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    path = write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters, trials=1)
    items = [
        {"id": str(i), "q": f"red {i}", "a": "x", "the": "The", "word": "Paris", "options": ["x", f"y{i}"]}
        for i in range(60)
    ]
    (path.parent / "red.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (path.parent / "own.py").write_text(OWN)
    (path.parent / "broken.py").write_text("import nothing_of_that_name\n")
    return path


def refused(spec: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = exit_code_of("check", spec, *arguments)
    err = capsys.readouterr().err
    assert code == 2, err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= MAX_LINES
    return err


def edit(spec: Path, task: dict[str, Any], **engine: Any) -> None:
    raw = yaml.safe_load(spec.read_text())
    raw["fitness"]["tasks"] = [{"name": "red", "items": "red.jsonl", **task}]
    raw["fitness"]["objectives"] = []
    raw["fitness"]["engine"] = engine or raw["fitness"]["engine"]
    spec.write_text(yaml.safe_dump(raw, sort_keys=False))


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_with_a_task(case: str, spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, said = CASES[case]
    edit(spec, task)
    assert said in refused(spec, capsys)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("zero", ("raises ZeroDivisionError: division by zero", "line 9: return [1 / 0]", "own.py, line 9")),
        ("short", ("returns 0 values for 1 items", "own.py, line 11")),
    ],
)
def test_a_function_that_fails_is_the_users_input(
    name: str, said: tuple[str, ...], spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(spec, {**PYTHON, "function": f"own.py:{name}"})
    err = refused(spec, capsys, "--answer")
    assert all(part in err for part in said)


def test_a_function_that_fails_or_changes_ends_a_run(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the trial is not told as FAILED, nor as a zero."""
    out = spec.parent / "run"
    edit(spec, {**PYTHON, "function": "own.py:zero"})
    assert exit_code_of("run", spec, "--out", out) == 2
    assert "line 9: return [1 / 0]" in capsys.readouterr().err
    assert not [record for record in journal_of(out) if record["kind"] == "tell"]
    edit(spec, PYTHON)
    out = spec.parent / "another"
    assert exit_code_of("run", spec, "--out", out) == 0
    (spec.parent / "own.py").write_text(OWN + "# changed\n")
    capsys.readouterr()
    assert exit_code_of("run", spec, "--out", out) == 2
    err = capsys.readouterr().err
    assert "this run folder was started with another spec" in err
    assert "tasks[0].function: own.py:score@" in err


@pytest.mark.parametrize(
    ("task", "function", "said"),
    [
        (GENERATE, "own.py:score", "the engine `python` does not answer what task `red` asks"),
        ({"kind": "python"}, "own.py:none", "there is no function `none`"),
        ({"kind": "python"}, "own.py", "a function is named as `path.py:name`"),
    ],
)
def test_an_engine_of_a_function(
    task: dict[str, Any], function: str, said: str, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(spec, task, kind="python", function=function)
    assert said in refused(spec, capsys)
