"""A search over a group of lm-eval's: to its end, through a kill, and refused once the task is another one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import write_tasks
from in_process import exit_code_of
from test_kill import kill_at, size, started, wait
from toy_runs import journal_of, write_spec

from crossbreed.runs import check_spec, load_spec, run
from crossbreed.runs.evaluate import evaluate

pytest.importorskip("lm_eval")

GROUP = {"name": "quiz", "kind": "lm_eval", "task": "quiz", "include_path": "tasks", "metric": "acc_norm"}
CORPUS = {"name": "corpus", "kind": "lm_eval", "task": "corpus", "include_path": "tasks", "metric": "exact_match"}
OWN = {"name": "own", "kind": "lm_eval", "task": "own", "include_path": "tasks", "metric": "vowels"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("template") / "tasks")


def written(where: Path, base: Path, adapters: dict[str, Path], tasks: list[dict[str, Any]], **changes: Any) -> Path:
    """Writes a spec beside the folder `tasks`."""
    changes = {
        "fitness__objectives": [{"task": tasks[0]["name"]}],
        "fitness__split": {"search": 3, "select": 3, "report": 6},
        **changes,
    }
    return write_spec(where, base=base, experts=adapters, trials=2, fitness__tasks=tasks, **changes)


@pytest.fixture(scope="module", params=["fake", pytest.param("transformers", marks=pytest.mark.slow)])
def spec(request: Any, tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    """Asked in texts, or in tokens of float32."""
    where = tmp_path_factory.mktemp("spec")
    write_tasks(where / "tasks")
    engine = {"kind": "transformers", "dtype": "float32"} if request.param == "transformers" else {"kind": "fake"}
    return written(where, toy_base, toy_adapters, [{**GROUP, "stratify": "task"}], fitness__engine=engine)


@pytest.fixture(scope="module")
def whole(spec: Path) -> Path:
    """A run folder, whose driver has loaded what the winner is evaluated with again."""
    out = spec.parent / "whole"
    report = run(load_spec(spec), out)
    again = evaluate(report.winner.recipe, load_spec(spec), split="report")
    assert report.winner.value.n == 6
    assert again.tasks["quiz"].mean == report.winner.value.mean
    return out


def test_a_run_goes_on_where_its_journal_was_torn(spec: Path, whole: Path, tmp_path: Path) -> None:
    text = (whole / "journal.jsonl").read_bytes()
    out = tmp_path / "torn"
    shutil.copytree(whole, out)
    (out / "journal.jsonl").write_bytes(text[: len(text) // 2])
    run(load_spec(spec), out)
    assert journal_of(out) == journal_of(whole)


@pytest.mark.slow
def test_a_killed_run_has_the_same_journal(spec: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    for share in (3, 2):
        kill_at(started(spec, out), out, size(whole) // share, 0.0)
    wait(started(spec, out))
    assert journal_of(out) == journal_of(whole)


def test_a_group_is_stratified_by_its_tasks(spec: Path) -> None:
    plan = check_spec(load_spec(spec)).plan
    for split, tasks in plan.items.items():
        items = tasks["quiz"].items
        assert {item.id.split("/")[1].split("-")[0] for item in items} == {
            "test" if split == "report" else "validation"
        }
        of_one = sum(item.fields["task"] == "options_norm" for item in items)
        assert abs(of_one - len(items) / 2) <= 1


def test_another_task_is_another_run(
    template: Path, tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], capsys: Any
) -> None:
    folder = tmp_path / "tasks"
    shutil.copytree(template, folder)
    spec, out = written(tmp_path, toy_base, toy_adapters, [OWN]), tmp_path / "run"
    assert exit_code_of("run", spec, "--out", out) == 0
    (folder / "utils.py").write_text((folder / "utils.py").read_text().replace("aeiou", "aeiouy"))
    capsys.readouterr()
    assert exit_code_of("run", spec, "--out", out) == 2
    err = capsys.readouterr().err
    assert "this run folder was started with another spec" in err
    assert "tasks[0].task: own@" in err


def test_a_corpus_metric_is_reported(
    template: Path, tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], capsys: Any
) -> None:
    """Of the rows of the report, by all that show it; and it is the journal's."""
    shutil.copytree(template, tmp_path / "tasks")
    spec, out = written(tmp_path, toy_base, toy_adapters, [CORPUS]), tmp_path / "run"
    assert exit_code_of("run", spec, "--out", out) == 0
    assert "bleu of corpus, of all 6 report items together: winner " in capsys.readouterr().out
    reported = json.loads((out / "report.json").read_text())
    rows = [reported["winner"], *reported["baselines"]]
    assert all(row["figures"]["corpus"]["bleu"]["n"] == 6 for row in rows)
    assert exit_code_of("show", out, "--json") == 0
    shown = {row["number"]: row["tasks"] for row in json.loads(capsys.readouterr().out)["figures"]}
    assert shown == {row["number"]: row["figures"] for row in rows}
    journal = (out / "journal.jsonl").read_text()
    assert journal.count('"figures"') == len(shown)
    (out / "report.json").unlink()
    assert exit_code_of("report", out) == 0
    again = json.loads((out / "report.json").read_text())
    assert again["winner"]["figures"] == reported["winner"]["figures"]
    assert (out / "journal.jsonl").read_text() == journal
    assert exit_code_of("evaluate", toy_base, "--spec", spec, "--split", "report") == 0
    assert "bleu of corpus, of all its items together: " in capsys.readouterr().out
    assert exit_code_of("evaluate", toy_base, "--spec", spec) == 0
    assert "bleu" not in capsys.readouterr().out
