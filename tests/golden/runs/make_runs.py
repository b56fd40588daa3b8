"""Records small runs, finished and stopped: `python tests/golden/runs/make_runs.py VERSION`, once for each release.

A folder of an older version is never written again: it is what people have on their disks. `sources/` holds the models,
which are not made anew either, for random numbers differ between processors.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from crossbreed.runs import parse_spec, run
from crossbreed.testing.toys import byte_tokenizer, make_adapter, make_expert

HERE = Path(__file__).parent
SOURCES = HERE / "sources"
PLACE = "@sources@"
"""Stands for the folder of the sources in recorded files."""
COEFFICIENTS = {"kind": "coefficients", "groups": {"layers": 2, "modules": ["mlp"]}}
RUNS: dict[str, dict[str, Any]] = {
    "cma_es": {"space": COEFFICIENTS, "optimizer": {"kind": "cma_es", "options": {"popsize": 4}}, "trials": 12},
    "random": {"space": COEFFICIENTS, "optimizer": {"kind": "random"}, "trials": 6},
    "gp": {"space": COEFFICIENTS, "optimizer": {"kind": "gp", "options": {"startup": 4}}, "trials": 8},
    "nsga2": {
        "space": {**COEFFICIENTS, "operator": "ties"},
        "optimizer": {"kind": "nsga2", "options": {"population": 4}},
        "trials": 12,
        "objectives": [{"task": "red"}, {"task": "blue"}],
    },
    "m2n2": {"preset": "m2n2", "trials": 12},
    "frank_wolfe": {"preset": "frank_wolfe", "space": {"groups": {"layers": 2}}, "trials": 4},
    "bmm": {
        "preset": "bmm",
        "space": {"groups": {"layers": 2}},
        "optimizer": {"options": {"startup": 4}},
        "trials": 6,
        "artifacts": {"grams": {"items": 4}},
    },
}


def make_sources() -> None:
    config = LlamaConfig(
        vocab_size=272,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # noqa: TID251 - transformers initialises from the global generator, restored after
        AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(SOURCES / "base")
    byte_tokenizer().save_pretrained(SOURCES / "base")
    config_path = make_adapter(SOURCES / "red", base=SOURCES / "base", seed=1) / "adapter_config.json"
    config_path.write_text(config_path.read_text().replace(str(SOURCES / "base"), "base"))
    make_expert(SOURCES / "blue", base=SOURCES / "base", seed=2)
    for skill in ("red", "blue"):
        items = ({"id": f"{skill}-{i}", "q": f"{skill} {i}", "a": str(i * 7 % 97)} for i in range(40))
        (SOURCES / f"{skill}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


def raw_spec(name: str) -> dict[str, Any]:
    asked = RUNS[name]
    tasks = [
        {
            "name": skill,
            "kind": "generate",
            "items": f"{skill}.jsonl",
            "prompt": skill + "|{q}|{a}",
            "answer": "a",
            "max_tokens": 4,
        }
        for skill in ("red", "blue")
    ]
    spec = {key: asked[key] for key in ("preset", "space", "artifacts") if key in asked}
    spec["optimizer"] = {**asked.get("optimizer", {}), "budget": {"trials": asked["trials"]}}
    return {
        "name": name,
        "seed": 7,
        "sources": {"base": "base", "experts": {"red": "red", "blue": "blue"}},
        **spec,
        "fitness": {
            "engine": {"kind": "fake"},
            "tasks": tasks,
            "objectives": asked.get("objectives", [{"mean": ["red", "blue"]}]),
            "split": {"search": 12, "select": 8, "report": 16},
            "slopes": {"items": 4},
        },
        "workers": {"executor": "local"},
    }


def record(name: str, folder: Path) -> None:
    """Runs to the end, then takes from a copy what a kill at two thirds of the search would have left undone."""
    finished, stopped = folder / name / "finished", folder / name / "stopped"
    run(parse_spec(raw_spec(name), folder=SOURCES), finished)
    for path in (finished / "spec.yaml", finished / "journal.jsonl"):
        path.write_text(path.read_text().replace(str(SOURCES), PLACE))
    (finished / "log.txt").unlink()
    (finished / "report.html").unlink()
    (finished / "lock").unlink()
    shutil.rmtree(finished / "answers")
    stopped.mkdir()
    shutil.copy(finished / "spec.yaml", stopped)
    lines = (finished / "journal.jsonl").read_text().splitlines(keepends=True)
    last = next(i for i, line in enumerate(lines) if '"split":"select"' in line)
    (stopped / "journal.jsonl").write_text("".join(lines[: last * 2 // 3]))


if __name__ == "__main__":
    if not SOURCES.exists():
        make_sources()
    version = HERE / sys.argv[1]
    os.environ["CROSSBREED_CACHE"] = str(version / "cache")
    for name in RUNS:
        record(name, version)
    for path in (version / "cache").iterdir():
        if path.name != "artifacts":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
