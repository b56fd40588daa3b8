"""What can be wrong with a task of lm-eval, through the command line: one screen each, exit 2, no traceback."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import OPTIONS, WRITTEN, write_task, write_tasks
from in_process import exit_code_of
from toy_runs import write_spec

pytest.importorskip("lm_eval")

MAX_LINES = 24
PARTS = {"validation": "validation", "test": "test"}
WRITES: dict[str, Any] = {
    **WRITTEN,
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
BROKEN = """
def docs(docs):
    raise KeyError("no column")

def text(doc):
    return doc["question"]

def results(doc, results):
    return {"value": 1 / (len(results) - 1)}

def odd(doc, results):
    return {"value": float("nan")}
"""
OWN: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "broken_template": ({**WRITES, "doc_to_text": "{{question}} ="}, PARTS),
    "broken_docs": ({**WRITES, "process_docs": "!function broken.docs"}, PARTS),
    "broken_text": ({**WRITES, "doc_to_text": "!function broken.text"}, PARTS),
    "broken_results": (
        {
            **WRITES,
            "process_results": "!function broken.results",
            "metric_list": [{"metric": "value", "aggregation": "mean", "higher_is_better": True}],
        },
        PARTS,
    ),
    "odd_results": (
        {
            **WRITES,
            "process_results": "!function broken.odd",
            "metric_list": [{"metric": "value", "aggregation": "mean", "higher_is_better": True}],
        },
        PARTS,
    ),
    "no_function": ({**WRITES, "process_results": "!function broken.nothing"}, PARTS),
    "syntax": ({**WRITES, "process_results": "!function syntax.results"}, PARTS),
    "no_file": ({**WRITES, "dataset_kwargs": {"data_files": {"test": "nowhere.jsonl"}}}, {"test": "test"}),
    "no_split": (WRITES, {"test": "tset"}),
    "only_test": (WRITES, {"test": "test"}),
    "no_shots": ({**WRITES, "num_fewshot": 0}, PARTS),
    "many_shots": ({**WRITES, "num_fewshot": 40, "fewshot_split": "train"}, PARTS),
    "drawn": (
        {**WRITES, "generation_kwargs": {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "until": []}},
        PARTS,
    ),
    "programs": ({**WRITES, "unsafe_code": True}, PARTS),
    "only_bleu": (
        {**WRITES, "metric_list": [{"metric": "bleu", "aggregation": "bleu", "higher_is_better": True}]},
        PARTS,
    ),
    "no_metric": (
        {**WRITES, "metric_list": [{"metric": "exactmatch", "aggregation": "mean", "higher_is_better": True}]},
        PARTS,
    ),
    "no_type": ({**WRITES, "output_type": "generate"}, PARTS),
    "no_options": ({**OPTIONS, "doc_to_target": "gold", "doc_to_choice": "choices"}, PARTS),
}
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no such task": ({"task": "optoins_norm"}, ("no task or group `optoins_norm`", "did you mean `options_norm`?")),
    "no such folder": ({"task": "own", "include_path": "nowhere"}, ("there is no folder of lm-eval tasks",)),
    "no such metric": (
        {"task": "options_norm", "metric": "acc_nrom"},
        ("no metric `acc_nrom`", "did you mean `acc_norm`?"),
    ),
    "no such filter": ({"task": "letters", "filter": "strct"}, ("no filter `strct`", "did you mean `strict`?")),
    "no such filter behind a comma": ({"task": "letters", "metric": "exact_match,lats"}, ("did you mean `last`?",)),
    "two filters": ({"task": "letters", "metric": "exact_match,last", "filter": "strict"}, ("remove one",)),
    "several metrics": ({"task": "options_norm"}, ("has several metrics", "acc, acc_norm", "metric: acc")),
    "several filters": ({"task": "letters"}, ("has several filters", "strict, last", "filter: strict")),
    "a corpus metric": (
        {"task": "corpus", "metric": "bleu"},
        (
            "`bleu` has a value for all documents together",
            "exact_match; this one is then reported",
            "metric: exact_match",
        ),
    ),
    "nothing but a corpus metric": (
        {"task": "only_bleu"},
        ("`bleu` has a value for all documents together", "aggregation: mean"),
    ),
    "a group without the metric": (
        {"task": "quiz", "metric": "acc_mutual_info"},
        ("`options_norm` has no metric `acc_mutual_info`",),
    ),
    "less is better": ({"task": "prose", "metric": "byte_perplexity"}, ("less is better", "minimize: true")),
    "more is better": ({"task": "shots", "minimize": True}, ("more is better", "minimize: false")),
    "a template without its field": (
        {"task": "broken_template"},
        ("UndefinedError: 'question' is undefined", "correct the field's name"),
    ),
    "documents that fail": (
        {"task": "broken_docs"},
        ("`broken.py` raises KeyError", 'line 3: raise KeyError("no column")'),
    ),
    "a text that fails": ({"task": "broken_text"}, ("`broken.py` raises KeyError", 'line 6: return doc["question"]')),
    "results that fail": (
        {"task": "broken_results"},
        ("raises ZeroDivisionError", 'line 9: return {"value": 1 / (len(results) - 1)}'),
    ),
    "results that are no number": ({"task": "odd_results"}, ("gives document", "nan")),
    "no such function": ({"task": "no_function"}, ("has no function 'nothing'",)),
    "a file that is no Python": ({"task": "syntax"}, ("`syntax.py` raises SyntaxError", "line 1: def results(:")),
    "no such data": ({"task": "no_file"}, ("nowhere.jsonl", "absolute paths")),
    "no such split": ({"task": "no_split"}, ("tset",)),
    "no such part": (
        {"task": "only_test", "documents": {"search": "validation", "select": "validation", "report": "test"}},
        ("has no validation documents", "name parts that it has"),
    ),
    "a part forgotten": ({"task": "own", "documents": {"search": "test"}}, ("`documents` names a part for each",)),
    "shots where the task wants none": (
        {"task": "no_shots", "num_fewshot": 2},
        ("takes no examples", "num_fewshot: 2"),
    ),
    "more shots than documents": ({"task": "many_shots"}, ("does not render the task",)),
    "texts of a task of options": (
        {"task": "options_norm", "metric": "acc", "gen_kwargs": {"until": ["x"]}},
        ("has no text written",),
    ),
    "drawn otherwise": ({"task": "drawn"}, ("`top_p: 0.9`", "gen_kwargs: {do_sample: false}")),
    "programs": ({"task": "programs"}, ("runs programs that the model wrote", "allow: running_generated_code")),
    "a metric of nobody's": ({"task": "no_metric"}, ("has no metric `exactmatch`", "did you mean `exact_match`?")),
    "a type of nobody's": ({"task": "no_type"}, ("invalid output_type 'generate'",)),
    "no field with options": ({"task": "no_options"}, ("malformed node", "(`doc_to_choice`)")),
    "too few documents": ({"task": "shots", "limit": 2}, ("too few items for the split", "2 for search")),
    "a template that is elsewhere": (
        {"task": "shots", "chat_template": True},
        ("the chat template of whoever answers",),
    ),
    "an unknown key": ({"task": "shots", "apply_chat_template": True}, ("did you mean `chat_template`?",)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tasks(tmp_path_factory.mktemp("bad") / "tasks")
    (root / "broken.py").write_text(BROKEN)
    (root / "syntax.py").write_text("def results(:\n")
    for name, (config, parts) in OWN.items():
        write_task(root, name, config, parts)
    return root


def checked(
    task: dict[str, Any], folder: Path, where: Path, base: Path, adapters: dict[str, Path], **changes: Any
) -> int:
    whole = {"name": "mine", "kind": "lm_eval", "include_path": str(folder), **task}
    split = {"search": 3, "select": 3, "report": 6}
    settings = {"fitness__tasks": [whole], "fitness__objectives": [], "fitness__split": split, **changes}
    return exit_code_of("check", write_spec(where, base=base, experts=adapters, trials=1, **settings))


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_with_a_task(
    case: str, folder: Path, tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], capsys: Any
) -> None:
    task, said = CASES[case]
    code = checked(task, folder, tmp_path / "spec", toy_base, toy_adapters)
    err = capsys.readouterr().err
    assert code == 2, err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= MAX_LINES
    assert all(part in err for part in said), err


def test_an_answer_as_long_as_the_context(
    folder: Path, tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], capsys: Any
) -> None:
    engine = {"kind": "transformers", "max_model_len": 64}
    task = {"task": "shots", "num_fewshot": 0, "gen_kwargs": {"max_gen_toks": 64}}
    settings = (folder, tmp_path / "spec", toy_base, toy_adapters)
    assert checked(task, *settings, fitness__engine=engine) == 2
    err = capsys.readouterr().err
    assert "gen_kwargs: {max_gen_toks: 32}" in err
    task["gen_kwargs"] = {"max_gen_toks": 32}
    assert checked(task, *settings, fitness__engine=engine) == 0


def test_a_file_that_cannot_be_read_is_named(
    folder: Path, tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], capsys: Any
) -> None:
    """lm-eval passes over it, and then knows no such task."""
    own = tmp_path / "tasks"
    shutil.copytree(folder, own)
    (own / "mine.yaml").write_text("task: mine\nmetric_list: [\n")
    assert checked({"task": "mine"}, own, tmp_path / "spec", toy_base, toy_adapters) == 2
    err = capsys.readouterr().err
    assert "no task or group `mine`" in err
    assert "mine.yaml cannot be read" in err


def test_what_a_message_advises_works(
    folder: Path, tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], capsys: Any
) -> None:
    for task in (
        {"task": "drawn", "gen_kwargs": {"do_sample": False}},
        {"task": "drawn", "gen_kwargs": {"top_p": None}},
        {"task": "programs", "allow": "running_generated_code"},
        {"task": "corpus", "metric": "exact_match"},
        {"task": "prose", "metric": "byte_perplexity", "minimize": True},
        {"task": "letters", "filter": "strict"},
        {"task": str(folder / "shots.yaml"), "include_path": None},
    ):
        assert checked(task, folder, tmp_path / "spec", toy_base, toy_adapters) == 0, capsys.readouterr().err


def test_lm_eval_is_an_extra(
    folder: Path,
    tmp_path: Path,
    toy_base: Path,
    toy_adapters: dict[str, Path],
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert checked({"task": "shots"}, folder, tmp_path / "spec", toy_base, toy_adapters) == 2
    err = capsys.readouterr().err
    assert "this needs the package `lm_eval`, which is not installed" in err
    assert "pip install 'crossbreed[lm-eval]'" in err
