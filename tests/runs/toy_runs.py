"""Whole runs on toy models: a spec on disk, and the command line in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from crossbreed.runs.record.journal import read
from crossbreed.runs.record.records import to_json, without_clock

SKILLS = ("red", "blue")


def write_spec(folder: Path, *, base: Path, experts: Mapping[str, Path], trials: int = 8, **changes: Any) -> Path:
    """Writes items and spec of a small run with the fake engine; `changes` are dotted keys (`__` for dots)."""
    folder.mkdir(parents=True, exist_ok=True)
    for skill in SKILLS:
        lines = [json.dumps({"id": f"{skill}-{i}", "q": f"{skill} {i}", "a": f"{i * 7 % 97}"}) for i in range(60)]
        (folder / f"{skill}.jsonl").write_text("\n".join(lines) + "\n")
    spec: dict[str, Any] = {
        "name": "toy",
        "seed": 7,
        "sources": {"base": str(base), "experts": {name: str(path) for name, path in experts.items()}},
        "space": {"kind": "coefficients", "operator": "task_arithmetic", "groups": {"layers": 2, "modules": ["mlp"]}},
        "optimizer": {"kind": "cma_es", "budget": {"trials": trials}, "options": {"popsize": 4}},
        "fitness": {
            "engine": {"kind": "fake"},
            "tasks": [
                {
                    "name": skill,
                    "kind": "generate",
                    "items": f"{skill}.jsonl",
                    "prompt": skill + "|{q}|{a}",
                    "answer": "a",
                    "max_tokens": 4,
                }
                for skill in SKILLS
            ],
            "objectives": [{"mean": list(SKILLS)}],
            "split": {"search": 20, "select": 16, "report": 24},
        },
        "workers": {"executor": "local"},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = spec
        for parent in parents:
            place = place[parent]
        place[last] = value
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def start(*arguments: object, **environment: str) -> "subprocess.Popen[str]":
    """Starts the command line."""
    return subprocess.Popen(
        [sys.executable, "-m", "crossbreed.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def call(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command line to its end."""
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def records_of(run: Path) -> list[dict[str, Any]]:
    """A run's journal, as JSON objects."""
    return [to_json(record) for record in read(run / "journal.jsonl")]


def journal_of(run: Path) -> list[dict[str, Any]]:
    """A run's journal, times aside."""
    return [without_clock(record) for record in read(run / "journal.jsonl")]


def trials_of(run: Path) -> list[dict[str, Any]]:
    """What was asked and told, by number: equal for runs with other numbers of workers."""
    records = [r for r in journal_of(run) if r["kind"] in ("ask", "tell")]
    return sorted(records, key=lambda r: (r.get("split", ""), r["number"]))
