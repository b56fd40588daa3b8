"""What the weights of a SmolLM2 zoo hold: `python -m benchmarks.weights OUT [--zoo overlap] [--only NAME ...]`.

Closed forms, gradients and searches by scores from local weights, what people would do instead (a LoRA trained on the
same search items), and merges without any data. All have a zoo's items, engine and experts, and are scored on the
report items, which none of them saw. A run that is there already is gone on with or only read. Below the table are the
differences of `PAIRS`, paired on the report items.
"""

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from benchmarks.distractors import NUM_DISTRACTORS, noise
from benchmarks.tables import is_done, per_task, report_of, shown
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs import Spec, build_plan, parse_spec, run
from crossbreed.runs.evaluate import evaluate
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.runs.results.statistics import interval, paired_difference
from crossbreed.runs.spec.objectives import Objective
from crossbreed.runs.spec.presets import fill_in
from crossbreed.types import BASE, ItemScores, Recipe, Rule

EXAMPLE = Path(__file__).parents[1] / "examples/smollm2"
SKILLS = ("sums", "french", "roman")
PROMPTS = {skill: f"tasks/{skill}-prompts.jsonl" for skill in SKILLS}
ZOOS = {"skills": "cma_es.yaml", "overlap": "overlap.yaml", "full": "full.yaml"}
"""Name -> the spec with its experts, tasks and split, and who can do what."""
NO_SEARCH = {
    "space": {"kind": "coefficients", "operator": "task_arithmetic"},
    "optimizer": {"kind": "cma_es", "budget": {"trials": 0}},
}
EACH_LAYER = {
    "kind": "coefficients",
    "operator": "task_arithmetic",
    "groups": {"layers": "each"},
    "weight": [0.0, 1.0],
}
RUNS: dict[str, dict[str, Any]] = {
    "regression": {"preset": "regression"},
    "regression, expert's matrix as target": NO_SEARCH
    | {"artifacts": {"regression": {"own": 0, "ridge": 0.01, "anchor": "task_arithmetic", "anchor_scale": 0.5}}},
    "RegMean++": NO_SEARCH
    | {
        "artifacts": {
            "regression": {
                "own": 0,
                "inputs": "experts",
                "ridge": 0,
                "off_diagonal": 0.95,
                "anchor": "task_arithmetic",
                "anchor_scale": 1 / 3,
            }
        }
    },
    "Expert Merging": {
        "space": EACH_LAYER,
        "optimizer": {
            "kind": "gradient",
            "options": {"loss": "distillation", "hidden": 1.0, "pull": 15.0, "steps": 60, "held_out": 0},
        },
    },
    "Expert Merging, logits alone": {
        "space": EACH_LAYER,
        "optimizer": {"kind": "gradient", "options": {"loss": "distillation", "steps": 60, "held_out": 0}},
    },
    "best": {"preset": "best"},
    "best, 8 random experts more": {"preset": "best"},
    "best, 500 prompts a skill": {
        "stages": [
            {"kind": "regression", "items": 48, "prompts": PROMPTS, "ridge": 0.3},
            {"kind": "gradient", "options": {"steps": 60, "held_out": 0}},
        ]
    },
    "best, 500 prompts a skill in both stages": {
        "stages": [
            {"kind": "regression", "items": 48, "prompts": PROMPTS, "ridge": 0.3},
            {"kind": "gradient", "options": {"steps": 60, "held_out": 0, "prompts": PROMPTS}},
        ]
    },
    "data_free": {"preset": "data_free"},
    "cma_es": {},
    "forward_only": {"preset": "forward_only"},
    "api": {"preset": "api"},
}
"""Name -> what its spec has in place of the example's search; nothing: the example as it stands."""
MERGES: dict[str, dict[str, Any]] = {
    "uniform": {"operator": "task_arithmetic", "weight": 1 / 3},
    "tsv_m": {"operator": "tsv_m", "weight": 1.0, "scale": 0.85},
    "ties": {"operator": "ties", "weight": 1.0, "density": 0.2},
    "dare_ties": {"operator": "dare_ties", "weight": 1.0, "density": 0.5},
    "model_stock": {"operator": "model_stock"},
}
"""Name -> operator and parameters of a merge without data, at its paper's or mergekit's defaults."""
LORA = "a LoRA trained on the search items"
NAMES = (*RUNS, *MERGES, LORA)
PAIRS = (
    *(("data_free", name) for name in MERGES),
    ("best, 8 random experts more", "best"),
    ("forward_only", "cma_es"),
    ("regression", LORA),
    ("best", LORA),
)
"""Rows that are compared."""
HEAD = "| what | seed | mean of tasks | {} | minutes |\n|---|---|---|---|---|"
PAIRS_HEAD = "| what | over | seed | better by |\n|---|---|---|---|"


def spec_of(name: str, seed: int, zoo: str) -> Spec:
    """Returns the example's spec with a zoo's experts and tasks, and with what a row has in place of its search."""
    raw, its = (yaml.safe_load((EXAMPLE / file).read_text()) for file in ("cma_es.yaml", ZOOS[zoo]))
    raw |= {key: its[key] for key in ("sources", "fitness")}
    if search := RUNS.get(name):
        del raw["space"], raw["optimizer"]
        raw = fill_in(raw | copy.deepcopy(search))
    for settings in regressions(raw):
        settings["tasks"] = next((stage["tasks"] for stage in regressions(its)), {})
    for settings in (*(stages := raw.get("stages", ())), *(stage.get("options", {}) for stage in stages)):
        if "prompts" in settings:
            names = [task["name"] for task in raw["fitness"]["tasks"]]
            settings["prompts"] = {task: f"tasks/{task}-prompts.jsonl" for task in names}
    if "random experts" in name:
        raw["sources"]["experts"] |= noise(NUM_DISTRACTORS)
    return parse_spec(raw | {"name": "weights", "seed": seed}, folder=EXAMPLE)


def regressions(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the settings of a spec's regression, if it has one: of a stage, or of an artifact."""
    staged = [stage for stage in raw.get("stages", ()) if stage["kind"] == "regression"]
    return staged or [made for kind, made in raw.get("artifacts", {}).items() if kind == "regression"]


def recipe_of(name: str, hashes: Mapping[str, str]) -> Recipe:
    """Returns the recipe of a merge without data."""
    params = {key: value for key, value in MERGES[name].items() if key != "operator"}
    if "weight" in params:
        params["weight"] = {expert: params["weight"] for expert in hashes if expert != BASE}
    return Recipe(
        base=BASE, sources=hashes, rules=(Rule(match=".*", operator=MERGES[name]["operator"], params=params),)
    )


def trained(spec: Spec, folder: Path) -> Spec:
    """Returns the spec with one expert in place of all: an adapter that is trained on their search items."""
    items = build_plan(spec).items["search"]
    folder.mkdir(parents=True)
    (folder / "items.jsonl").write_text(
        "".join(json.dumps(item.fields) + "\n" for found in items.values() for item in found.items)
    )
    script = (EXAMPLE / "train_expert.py", "all", "--items", folder / "items.jsonl", "--out", folder / "adapter")
    subprocess.run([sys.executable, *script, "--steps", "120"], check=True)
    raw = spec.model_dump(mode="json", exclude_unset=True)
    raw["sources"]["experts"] = {"lora": str(folder / "adapter")}
    return parse_spec(raw, folder=EXAMPLE)


def evaluate_at_once(name: str, spec: Spec, folder: Path) -> None:
    """Writes the report scores of a merge without data, or of the adapter."""
    began = time.monotonic()
    is_lora = name == LORA
    spec = trained(spec, folder) if is_lora else spec
    hashes = build_plan(spec).structure.hashes
    recipe = weighted_deltas({"lora": 1.0}, hashes=hashes, dtype="bfloat16") if is_lora else recipe_of(name, hashes)
    minutes = (time.monotonic() - began) / 60
    found = evaluate(recipe, spec, split="report")
    winner = interval(found.scores, mean_over(found.scores), seed=spec.seed).to_json() | {
        "tasks": found.to_json()["tasks"]
    }
    scores = {task: [list(one.item_ids), list(one.values)] for task, one in found.scores.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps({"winner": winner, "scores": scores, "minutes": minutes}))


def mean_over(tasks: Iterable[str]) -> Objective:
    """Returns what rows are compared by."""
    return Objective(kind="mean", tasks=tuple(tasks))


def scores_of(folder: Path) -> dict[str, ItemScores]:
    """Returns what a row's merge got for each report item."""
    report, journal = report_of(folder), folder / "journal.jsonl"
    if journal.exists():
        return dict(fold(read(journal)).scores["report", report["winner"]["number"]].tasks)
    return {
        task: ItemScores(item_ids=tuple(ids), values=tuple(values)) for task, (ids, values) in report["scores"].items()
    }


def differences(done: Mapping[tuple[str, int], Path], seeds: Sequence[int]) -> Iterator[str]:
    """Yields the lines of the second table: how much better the first of a pair is, on the same items."""
    for (first, second), seed in product(PAIRS, seeds):
        if {(first, seed), (second, seed)} <= done.keys():
            a, b = (scores_of(done[name, seed]) for name in (first, second))
            by = paired_difference(a, b, mean_over(a), seed=seed).to_json()
            yield f"| {first} | {second} | {seed} | {shown(by)} |"


def row_of(name: str, seed: int, folder: Path) -> str:
    """Returns the line of the table; the minutes are those before the report."""
    report = report_of(folder)
    journal = folder / "journal.jsonl"
    minutes = fold(read(journal)).elapsed_s / 60 if journal.exists() else report["minutes"]
    return f"| {name} | {seed} | {shown(report['winner'])} | {per_task(report['winner'])} | {minutes:.1f} |"


def main() -> None:
    """Runs what is named, then prints what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--zoo", choices=list(ZOOS), default="skills")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help="; ".join(NAMES))
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[7], help="each is a run of its own, with its own split"
    )
    parser.add_argument("--show", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    folders = {
        (name, seed): arguments.out / f"{name}-{seed}".replace(" ", "-") for name in NAMES for seed in arguments.seeds
    }
    for (name, seed), folder in () if arguments.show else folders.items():
        if name not in arguments.only or is_done(folder):
            continue
        if name in RUNS:
            run(spec_of(name, seed, arguments.zoo), folder)
        else:
            evaluate_at_once(name, spec_of(name, seed, arguments.zoo), folder)
    done = {row: folder for row, folder in folders.items() if is_done(folder)}
    tasks = [task.name for task in spec_of("uniform", 0, arguments.zoo).fitness.tasks]
    print(HEAD.format(" / ".join(tasks)), *(row_of(*row, folder) for row, folder in done.items()), sep="\n")
    print("", PAIRS_HEAD, *differences(done, arguments.seeds), sep="\n")


if __name__ == "__main__":
    main()
