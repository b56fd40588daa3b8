"""A whole search whose engine takes recipes, in processes where no tensor library can be imported."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from toy_runs import SKILLS, journal_of, records_of, write_spec

from crossbreed.errors import InputError
from crossbreed.recipes import load_recipe
from crossbreed.runs import evaluate as evaluating
from crossbreed.runs import load_spec, publish_run

BLOCKED = (
    *("torch", "vllm", "transformers", "ray", "safetensors", "tokenizers", "triton"),
    *("blake3", "huggingface_hub", "scipy", "pyarrow"),
)
COMMAND = f"""
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
from crossbreed.cli import main
main()
"""
EXTRA = "pip install 'crossbreed[torch]'"


def start(*arguments: object) -> "subprocess.Popen[str]":
    """The command line without tensor libraries."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(*arguments: object, code: int = 0) -> str:
    """Runs it to its end; returns what it prints, on stderr where it fails."""
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out if code == 0 else err


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    experts = {"one": Path("fake/one"), "two": Path("fake/two")}
    engine = {"kind": "fake_recipes", "delay_s": 0.01}
    return write_spec(
        tmp_path_factory.mktemp("spec"), base=Path("fake/base"), experts=experts, trials=32, fitness__engine=engine
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    call("run", spec, "--out", out)
    return out


@pytest.mark.parametrize("package", BLOCKED)
def test_what_is_blocked_cannot_be_imported(package: str) -> None:
    code = COMMAND.replace("from crossbreed.cli import main\nmain()", f"import {package}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"{package} is blocked" in done.stderr


def test_a_run_searches_and_reports(finished: Path) -> None:
    shown = json.loads(call("show", finished, "--json"))
    assert shown["state"] == "finished"
    assert [trial["origin"] for trial in shown["trials"]].count("cma_es") == 32
    values = {trial["number"]: trial["objectives"][0] for trial in shown["trials"]}
    [best] = shown["best"]
    assert values[best] == max(values.values()) > max(values[number] for number in range(8)), "the search finds more"
    report = json.loads((finished / "report.json").read_text())
    assert report["winner"]["mean"] > 0.7
    assert (finished / "report.html").read_text().startswith("<!")


def test_fingerprints_are_the_engine_s_word_and_everything_says_so(finished: Path) -> None:
    fingerprints = {record["fingerprint"] for record in records_of(finished) if record["kind"] == "tell"}
    assert all(len(fingerprint) == 32 for fingerprint in fingerprints)
    said = "as the engine says"
    assert {trial["weights"] for trial in json.loads(call("show", finished, "--json"))["trials"]} == {said}
    assert f"weights: {said}" in call("show", finished)
    assert json.loads((finished / "report.json").read_text())["winner"]["weights"] == said
    assert f"Weights: {said}" in call("report", finished)
    assert f"Weights: {said}" in (finished / "report.html").read_text()


def test_an_engine_that_vouches_for_nothing_is_said_to(spec: Path, tmp_path: Path) -> None:
    silent = ("--set", "fitness.engine={kind: fake_recipes, vouches: false}", "--set", "optimizer.budget.trials=1")
    assert "Weights: not vouched for" in call("run", spec, "--out", tmp_path / "run", *silent)
    told = [record for record in records_of(tmp_path / "run") if record["kind"] == "tell"]
    assert {record["fingerprint"] for record in told} == {None}
    said = "not vouched for"
    assert {trial["weights"] for trial in json.loads(call("show", tmp_path / "run", "--json"))["trials"]} == {said}
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["winner"]["fingerprint"], report["winner"]["weights"]) == (None, said)


def test_a_run_killed_in_the_middle_grows_to_the_same_journal(spec: Path, finished: Path, tmp_path: Path) -> None:
    out, half = tmp_path / "run", (finished / "journal.jsonl").stat().st_size // 2
    process = start("run", spec, "--out", out)
    while process.poll() is None and not ((out / "journal.jsonl").exists() and size(out) > half):
        time.sleep(0.001)
    assert process.poll() is None, "it was to be killed before its end"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(journal_of(out)) < len(journal_of(finished))
    call("run", spec, "--out", out)
    assert journal_of(out) == journal_of(finished)


def size(out: Path) -> int:
    return (out / "journal.jsonl").stat().st_size


def test_check_describes_the_run_and_answers(spec: Path) -> None:
    checked = call("check", spec)
    assert "weights made by the engine" in checked
    assert "GB" not in checked
    answered = call("check", spec, "--answer")
    assert answered.count("base: ") == len(SKILLS)
    assert "no problems found" in answered


def test_the_page_of_a_run_is_served(finished: Path) -> None:
    process = start("dashboard", finished, "--port", 0)
    assert process.stdout is not None
    url = process.stdout.readline().split()[0]
    with urllib.request.urlopen(f"{url}data.json?since=0", timeout=60) as answer:
        assert json.loads(answer.read())["state"] == "finished"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["publish", "merge", "evaluate", "run", "inspect"])
def test_what_needs_tensors_names_the_extra(command: str, finished: Path, spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = next((finished / "recipes").iterdir())
    arguments: dict[str, tuple[object, ...]] = {
        "publish": (finished, "--out", out),
        "merge": (recipe, "--out", out, "--source", "base=fake/base"),
        "evaluate": ("fake/base", "--spec", spec, "--set", "fitness.engine={kind: fake}"),
        "run": (spec, "--out", out, "--set", "fitness.engine={kind: fake}"),
        "inspect": (out,),
    }
    error = call(command, *arguments[command], code=2)
    assert EXTRA in error
    assert not out.exists()


def test_what_there_is_and_what_is_missing_is_shown() -> None:
    assert "takes: recipe" in call("list", "engines", "fake_recipes")
    missing = json.loads(call("doctor", "--json"))["packages"]
    assert missing["torch"] is None
    assert missing["pyarrow"] is None


def test_a_checkpoint_cannot_be_given_to_an_engine_that_takes_recipes(spec: Path) -> None:
    assert "takes recipes" in call("evaluate", "fake/base", "--spec", spec, code=2)


def test_a_recipe_of_the_sources_is_evaluated(finished: Path, spec: Path) -> None:
    report = json.loads((finished / "report.json").read_text())["winner"]
    recipe = load_recipe(finished / "recipes" / f"{report['number']:06d}.yaml")
    found = evaluating.evaluate(recipe, load_spec(spec), split="report")
    assert found.fingerprint == report["fingerprint"]
    assert {name: task.mean for name, task in found.tasks.items()} == {
        name: task["mean"] for name, task in report["tasks"].items()
    }


def test_a_run_of_recipes_is_not_published_where_there_is_torch_either(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="so the weights are not on this machine"):
        publish_run(finished, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["space={kind: lineage}", "optimizer={kind: m2n2, budget: {trials: 1}}"], "inner products"),
        (["optimizer={kind: frank_wolfe, budget: {trials: 1}}"], "gradients need weights"),
        (["artifacts={grams: {items: 1}}", "space.operator=regmean"], "`artifacts.grams`"),
        (["sources.base=elsewhere/base"], "fake/NAME"),
    ],
)
def test_what_reads_weights_is_refused_before_anything_starts(changes: list[str], said: str, spec: Path) -> None:
    assert said in call("check", spec, *(part for change in changes for part in ("--set", change)), code=2)


def test_a_spec_frozen_in_a_run_folder_is_read_without_torch(finished: Path) -> None:
    frozen = yaml.safe_load((finished / "spec.yaml").read_text())
    assert frozen["fitness"]["engine"]["kind"] == "fake_recipes"
    assert frozen["sources"]["base"] == "fake/base"
