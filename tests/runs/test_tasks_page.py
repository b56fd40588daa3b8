"""docs/tasks.md: every example is a task that is asked and scored."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from json_server import serving
from safetensors.torch import save_file
from toy_runs import write_spec

from crossbreed.errors import is_installed
from crossbreed.fitness import METRICS, TASKS
from crossbreed.fitness.tasks.metrics import comparison_of
from crossbreed.runs import check_spec, load_spec, run
from crossbreed.runs.evaluate import evaluate

PAGE = Path(__file__).parents[2] / "docs/tasks.md"
ITEMS: dict[str, list[dict[str, Any]]] = {
    "sums": [{"question": f"What is {n} + 4?", "answer": n + 4} for n in range(12)],
    "records": [{"text": f"the number {n}"} for n in range(12)],
    "squares": [{"name": f"square_{n}", "tests": f"assert square_{n}(3) == 9"} for n in range(12)],
    "facts": [
        {"question": f"What is {n}?", "options": (options := ["a", "b", f"c{n}"]), "right": options[n % 3]}
        for n in range(12)
    ],
    "validation": [{"question": f"Near {n}?", "options": ["a", f"b{n}"], "gold": n % 2} for n in range(12)],
    "test": [{"question": f"Far from {n}?", "options": ["a", f"b{n}"], "gold": n % 2} for n in range(12)],
    "digits": [{"pixels": [n % 2, n % 3, n % 5, 1.0], "digit": n % 3} for n in range(12)],
}
SPLIT = {"search": 4, "select": 4, "report": 4}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


EXAMPLES = [yaml.safe_load(block) for block in blocks("yaml")]
TASKS_SHOWN = [task for example in EXAMPLES if isinstance(example, list) for task in example]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, items in ITEMS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "schema.json").write_text(json.dumps({"type": "object"}))
    (tmp_path / "own.py").write_text("\n\n".join(blocks("python")))
    (tmp_path / "my_tasks").mkdir()
    [cities] = blocks("text")
    (tmp_path / "my_tasks/cities.yaml").write_text(cities.replace("/data", str(tmp_path)))
    return tmp_path


def judge_of(task: dict[str, Any]) -> dict[str, Any] | None:
    metric = task.get("metric")
    return metric.get("judge") if isinstance(metric, dict) else None


def marks(path: str, body: Any, key: str | None) -> tuple[int, Any]:
    """A judge that gives every explanation the same mark."""
    assert path == "/v1/chat/completions"
    assert "The right answer is" in body["messages"][0]["content"]
    return 200, {"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}


def needs(task: dict[str, Any]) -> list[str]:
    if task["kind"] == "lm_eval":
        return ["lm_eval"]
    singles = comparison_of(task.get("metric", "exact_match"), pattern=task.get("pattern")).singles()
    return [module for single in singles for module in single.metric.needs]


@pytest.mark.parametrize("task", [task for task in TASKS_SHOWN if not judge_of(task)], ids=lambda task: task["name"])
def test_an_example_is_asked_and_scored(
    task: dict[str, Any], folder: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    if not all(map(is_installed, needs(task))):
        pytest.skip("an extra is not installed")
    teachers = {task["teacher"]} - {"base"} if "teacher" in task else set()
    experts = {**toy_adapters, **dict.fromkeys(teachers, toy_adapters["plain"])}
    path = write_spec(
        folder,
        base=toy_base,
        experts=experts,
        trials=1,
        fitness__engine={"kind": "transformers" if "teacher" in task else "fake"},
        fitness__tasks=[task],
        fitness__objectives=[],
        fitness__split=SPLIT,
    )
    [found] = check_spec(load_spec(path), answer=True).tasks
    assert len(found.base_values) == 4
    assert found.example.value is not None


def test_the_example_of_a_judge_is_asked(folder: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    [task] = filter(judge_of, TASKS_SHOWN)
    with serving(marks) as url:
        (judge_of(task) or {})["url"] = url
        changes: dict[str, Any] = {"fitness__tasks": [task], "fitness__objectives": [], "fitness__split": SPLIT}
        path = write_spec(folder, base=toy_base, experts=toy_adapters, trials=1, **changes)
        findings = check_spec(load_spec(path), answer=True)
    [found] = findings.tasks
    assert found.example.value == 0.75
    assert found.example.gold in found.example.judged[0]
    assert findings.cost.judge_calls == {"search": 12, "select": 12, "report": 12}


def test_the_example_of_an_engine_runs(folder: Path) -> None:
    """To the end, on sources that are no language models; evaluated again, the winner is as good."""
    [fitness] = [example["fitness"] for example in EXAMPLES if isinstance(example, dict)]
    generator = torch.Generator().manual_seed(0)
    sources = {name: folder / name for name in ("base", "one", "two")}
    for source in sources.values():
        source.mkdir()
        (source / "config.json").write_text('{"tie_word_embeddings": false}')
        tensors = {
            "out.weight": torch.randn(3, 4, generator=generator),
            "out.bias": torch.randn(3, generator=generator),
        }
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    base, experts = sources.pop("base"), sources
    space = {"kind": "coefficients", "operator": "task_arithmetic"}
    path = write_spec(folder, base=base, experts=experts, trials=3, space=space, fitness={**fitness, "split": SPLIT})
    report = run(load_spec(path), folder / "run")
    assert report.winner.value.n == 4
    again = evaluate(report.winner.recipe, load_spec(path), split="report")
    assert again.tasks["digits"].mean == report.winner.value.mean


def test_the_page_lists_all_kinds_and_metrics() -> None:
    text = PAGE.read_text()
    for name in (*TASKS.ours, *METRICS.ours):
        assert f"`{name}`" in text
