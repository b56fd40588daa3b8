"""Specs of small runs against the fake service."""

from pathlib import Path
from typing import Any

from fake_service import FakeService

from crossbreed.fitness.engines.api.config import ApiConfig
from crossbreed.fitness.services.pace import Clock
from crossbreed.runs import load_spec
from crossbreed.runs.spec import Spec
from crossbreed.types import canonical_json

SKILLS = ("red", "blue")


def raw_spec(folder: Path, *, url: str = "http://service.test", trials: int = 2, **engine: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    for skill in SKILLS:
        lines = [canonical_json({"id": f"{skill}-{i}", "q": f"{skill} {i}", "a": f"{i * 7 % 97}"}) for i in range(24)]
        (folder / f"{skill}.jsonl").write_text("\n".join(lines) + "\n")
    options = [canonical_json({"q": f"pick {i}", "o": ["yes", "no"], "a": i % 2}) for i in range(24)]
    (folder / "pick.jsonl").write_text("\n".join(options) + "\n")
    shared = {"kind": "generate", "answer": "a", "max_tokens": 4, "chunk": 3}
    return {
        "name": "api",
        "seed": 7,
        "space": {"kind": "coefficients", "operator": "task_arithmetic", "groups": {"layers": 1, "modules": ["mlp"]}},
        "optimizer": {"kind": "cma_es", "budget": {"trials": trials}, "options": {"popsize": 4}},
        "fitness": {
            "engine": {"kind": "api", "url": url, **engine},
            "tasks": [
                *(shared | {"name": s, "items": f"{s}.jsonl", "prompt": s + "|{q}|{a}"} for s in SKILLS),
                {"name": "pick", "kind": "choice", "items": "pick.jsonl", "prompt": "pick|{q}|", "answer": "a"}
                | {"choices": "o", "chunk": 3},
            ],
            "split": {"search": 8, "select": 6, "report": 8},
        },
        "workers": {"executor": "local"},
    }


def written(folder: Path, raw: dict[str, Any]) -> Path:
    import yaml

    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def spec_over(path: Path, service: Any, clock: Clock | None = None) -> Spec:
    """The spec of a file, asking a service in this process."""
    spec = load_spec(path)
    engine = spec.fitness.engine
    assert isinstance(engine, ApiConfig)
    engine.over(service, clock)
    return spec


def service_spec(folder: Path, service: FakeService, **settings: Any) -> Spec:
    return spec_over(written(folder, raw_spec(folder, **settings)), service)
