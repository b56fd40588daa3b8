"""Specs of small searches over adapters on servers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


def write_spec(
    folder: Path, *, base: Path, experts: Mapping[str, Path], engine: Mapping[str, Any], **optimizer: Any
) -> Path:
    """Writes items and a spec: texts to score, and questions to answer."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = [
        {"id": f"f{i}", "q": f"{i} and {i * 3} is", "a": f" {i * 7 % 10}", "b": f" {i * 3 % 10 + 10}"}
        for i in range(12)
    ]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, facts)))
    spec = {
        "name": "servers",
        "seed": 3,
        "sources": {"base": str(base), "experts": {name: str(path) for name, path in experts.items()}},
        "space": {"kind": "coefficients", "operator": "task_arithmetic"},
        "optimizer": {"kind": "cma_es", "budget": {"trials": 4}, "options": {"popsize": 4}, **optimizer},
        "dtype": "float32",
        "fitness": {
            "engine": dict(engine),
            "tasks": [
                {"name": "texts", "kind": "perplexity", "items": "facts.jsonl", "text": "q"},
                {
                    "name": "questions",
                    "kind": "generate",
                    "items": "facts.jsonl",
                    "prompt": "{q}",
                    "answer": "a",
                    "max_tokens": 3,
                },
            ],
            "objectives": [{"task": "texts"}],
            "split": {"search": 4, "select": 3, "report": 4},
        },
        "workers": {"executor": "local"},
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def engine_of(urls: Sequence[str], **settings: Any) -> dict[str, Any]:
    """The settings of the engine."""
    return {"kind": "lora_server", "url": list(urls), "max_rank": 16, "dtype": "float32", "patience": 5.0, **settings}
