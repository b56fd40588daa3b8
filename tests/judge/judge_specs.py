"""Specs of small runs whose answers a judge scores; the models are the engine's that takes recipes."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from judge_server import PROMPT

from crossbreed.fitness import SearchItems, Surroundings, begun_tasks, evaluate_tasks, load_tasks
from crossbreed.fitness.evaluation import Evaluation
from crossbreed.fitness.requests import Request, Response
from crossbreed.fitness.tasks import GenerateTask

NUM_ITEMS = 20


class Says:
    """An engine's handle that gives these texts, in the order of the requests."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def answer(self, requests: list[Request]) -> list[Response]:
        texts = [self.texts[i % len(self.texts)] for i in range(len(requests))]
        return [Response(text=text, token_ids=(1,), logprobs=(-1.0,), prompt_tokens=1) for text in texts]


def write_items(folder: Path, number: int = NUM_ITEMS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": f"i{n}", "q": f"red {n}", "a": f"{n * 7 % 97}"}) for n in range(number)]
    (folder / "red.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "red.jsonl"


def setting(url: str, **settings: Any) -> dict[str, Any]:
    return {"url": url, "model": "judge", "prompt": PROMPT, "patience": 5, **settings}


def task_of(folder: Path, metric: Any, *, number: int = 4, **task: Any) -> GenerateTask:
    items = write_items(folder, number)
    given = {"name": "red", "kind": "generate", "prompt": "{q}", "answer": "a", "items": str(items), "metric": metric}
    return GenerateTask.model_validate(given | task)


def judged(
    folder: Path, url: str, *texts: str, number: int = 4, kept: Path | None = None, **settings: Any
) -> Evaluation:
    """The scores of an engine that says these texts."""
    task = task_of(folder, {"judge": setting(url, **settings)}, number=number)
    return evaluated(task, *texts, kept=kept)


def evaluated(task: GenerateTask, *texts: str, kept: Path | None = None) -> Evaluation:
    with ExitStack() as closing:
        [begun] = begun_tasks(load_tasks([task]), Surroundings(folder=kept), closing)
        return evaluate_tasks(Says(*texts), [begun], {"red": SearchItems(begun.items)})


def write_spec(folder: Path, url: str, *, trials: int = 3, metric: Any = None, **settings: Any) -> Path:
    write_items(folder)
    task = {"name": "red", "kind": "generate", "items": "red.jsonl", "prompt": "red|{q}|{a}", "answer": "a"}
    spec = {
        "name": "judged",
        "seed": 7,
        "sources": {"base": "fake/base", "experts": {"one": "fake/one", "two": "fake/two"}},
        "space": {"kind": "coefficients", "operator": "task_arithmetic", "groups": {"layers": 1, "modules": ["mlp"]}},
        "optimizer": {"kind": "random", "budget": {"trials": trials}},
        "fitness": {
            "engine": {"kind": "fake_recipes"},
            "tasks": [{**task, "max_tokens": 4, "metric": metric or {"judge": setting(url, **settings)}}],
            "split": {"search": 8, "select": 4, "report": 8},
        },
        "workers": {"executor": "local", "retries": 0},
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path
