"""The whole way on a real architecture: Ray, vLLM, hot swaps, kills, report, publish."""

import json
import random
from pathlib import Path

import pytest
from test_kill import kill_at, size, started, wait
from toy_runs import call, journal_of, records_of, write_spec

from crossbreed.kernels import fingerprint_checkpoint

pytestmark = pytest.mark.engine

TASKS = [
    {"name": "red", "kind": "perplexity", "items": "red.jsonl", "text": "q"},
    {
        "name": "blue",
        "kind": "generate",
        "items": "blue.jsonl",
        "prompt": "{q} and {q} and {q} is",
        "answer": "a",
        "metric": "contains",
        "max_tokens": 12,
        "stop": ["\n\n\n"],
    },
]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    return write_spec(
        tmp_path_factory.mktemp("spec"),
        base=toy_base,
        experts=toy_adapters,
        trials=6,
        fitness__engine={"kind": "vllm", "dtype": "bfloat16", "max_model_len": 256, "kv_cache_gb": 0.25},
        fitness__tasks=TASKS,
        fitness__objectives=[{"task": "red", "minimize": True}],
        workers={"executor": "ray", "count": 1, "cpus": 2},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = call("run", spec, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def published(whole: Path) -> Path:
    out = whole.with_name("model")
    done = call("publish", whole, "--out", out, "--licence", "mit")
    assert done.returncode == 0, done.stderr
    return out


def test_the_search_lowers_what_is_to_be_minimised(whole: Path) -> None:
    shown = json.loads(call("show", whole, "--json").stdout)
    assert all(trial["status"] == "OK" for trial in shown["trials"])
    values = {trial["number"]: trial["objectives"][0] for trial in shown["trials"]}
    assert shown["best"] == [min(values, key=lambda number: (values[number], number))]
    assert len(set(values.values())) > 10  # different weights, different answers
    assert set(shown["seconds_by_phase"]) == {"materialize", "swap", "answer", "slopes", "other"}


@pytest.mark.slow  # with a Ray worker that answers faster, kills are tried always
@pytest.mark.parametrize("fractions", [(0.5,), (0.2, 0.8)])
def test_kills_change_nothing(spec: Path, whole: Path, tmp_path: Path, fractions: tuple[float, ...]) -> None:
    out, rng = tmp_path / "killed", random.Random(3)
    for fraction in fractions:
        assert kill_at(started(spec, out), out, int(fraction * size(whole)), rng.uniform(0, 0.1))
    wait(started(spec, out))
    assert journal_of(out) == journal_of(whole)


def test_what_is_published_is_what_was_scored(whole: Path, published: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    winner = json.loads((whole / "report.json").read_text())["winner"]
    told = [r for r in records_of(whole) if r["kind"] == "tell" and r["number"] == winner["number"]]
    assert {fingerprint_checkpoint(published)} == {record["fingerprint"] for record in told}
    tokenizer, model = AutoTokenizer.from_pretrained(published), AutoModelForCausalLM.from_pretrained(published)
    model.generate(**tokenizer("red 1", return_tensors="pt"), max_new_tokens=2)
    card = (published / "README.md").read_text()
    assert "base_model_relation: merge" in card
    assert {"recipe.yaml", "mergekit_config.yml", "crossbreed.json"} <= {path.name for path in published.iterdir()}


@pytest.mark.slow
def test_a_published_model_scores_as_its_trial(spec: Path, whole: Path, published: Path) -> None:
    done = call("evaluate", published, "--spec", spec, "--split", "report", "--json")
    evaluated = json.loads(done.stdout)["tasks"]
    reported = json.loads((whole / "report.json").read_text())["winner"]["tasks"]
    assert {name: task["mean"] for name, task in evaluated.items()} == {
        name: task["mean"] for name, task in reported.items()
    }
