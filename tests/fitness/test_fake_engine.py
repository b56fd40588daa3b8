from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from crossbreed.errors import EngineError
from crossbreed.fitness import (
    ChoiceTask,
    FakeConfig,
    GenerateTask,
    Handle,
    Item,
    PerplexityTask,
    SearchItems,
    Task,
    build_engine,
    evaluate_tasks,
)
from crossbreed.testing.fakes import FakeEngine
from crossbreed.types import Recipe

RECIPE = Recipe(base="base", sources={"base": "hash"}, rules=())
ITEMS = tuple(Item(id=str(i), fields={"n": i, "a": f"yes {i}", "o": [f"yes {i}", "no"]}) for i in range(400))
WRITE = GenerateTask(kind="generate", name="write", items="", prompt="sums|{n}|{a}", answer="a")
PICK = ChoiceTask(kind="choice", name="pick", items="", prompt="sums|{n}|{a}", answer="a", choices="o")
PROSE = PerplexityTask(kind="perplexity", name="prose", items="", text="a")
TASKS = [Task(kind=kind, items=ITEMS) for kind in (WRITE, PICK, PROSE)]


@pytest.fixture
def base(toy_base: Path) -> Path:
    return toy_base


@pytest.fixture
def expert(toy_experts: dict[str, Path]) -> Path:
    return toy_experts["everything"]


def adopt(engine: FakeEngine, base: Path, expert: Path, weight: float) -> Handle:
    w0, w1 = (load_file(folder / "model.safetensors") for folder in (base, expert))
    merged = {name: w0[name].float() + weight * (w1[name].float() - w0[name].float()) for name in sorted(w0)}
    return engine.adopt(RECIPE, iter(merged.items()))


def test_accuracy_is_the_quality_of_the_weights(base: Path, expert: Path) -> None:
    engine = FakeEngine(FakeConfig(kind="fake"), base)
    handle = adopt(engine, base, expert, 0.3)
    quality = engine.quality("sums")
    assert 0.1 < quality < 0.9
    found = evaluate_tasks(handle, TASKS, {task.name: SearchItems(ITEMS) for task in TASKS})
    assert found.tasks["write"].mean == pytest.approx(quality, abs=0.1)
    assert found.tasks["pick"].values == found.tasks["write"].values
    assert found == evaluate_tasks(handle, TASKS, {task.name: SearchItems(ITEMS) for task in TASKS})


def test_quality_is_a_hill_with_one_top(base: Path, expert: Path) -> None:
    engine = FakeEngine(FakeConfig(kind="fake"), base)
    qualities = []
    for weight in np.linspace(-3, 3, 25):
        adopt(engine, base, expert, float(weight))
        qualities.append(engine.quality("sums"))
    slopes = np.sign(np.diff(qualities))
    assert (np.diff(slopes) <= 0).all()
    assert slopes[0] == 1
    assert slopes[-1] == -1
    assert 0 <= min(qualities) <= max(qualities) <= 1


def test_skills_differ(base: Path, expert: Path) -> None:
    engine = FakeEngine(FakeConfig(kind="fake"), base)
    adopt(engine, base, expert, 0.3)
    assert engine.quality("sums") != engine.quality("french")


def test_it_fails_as_told(base: Path, expert: Path) -> None:
    with pytest.raises(EngineError, match="does not start"):
        build_engine(FakeConfig(kind="fake", fail="start"), base)
    engine = FakeEngine(FakeConfig(kind="fake", fail="answer", fail_at=2), base)
    handle = adopt(engine, base, expert, 0.0)
    requests = WRITE.requests(ITEMS[0])
    first = handle.answer(requests)
    with pytest.raises(EngineError, match="fails in answer 2"):
        handle.answer(requests)
    assert handle.answer(requests) == first


def test_it_sees_every_tensor(base: Path) -> None:
    engine = FakeEngine(FakeConfig(kind="fake"), base)
    tensors = load_file(base / "model.safetensors")
    engine.adopt(RECIPE, iter(tensors.items()))
    before = engine.quality("sums")
    for name, tensor in tensors.items():
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
        engine.adopt(RECIPE, iter({**tensors, name: tensor + 0.1 * noise}.items()))
        assert engine.quality("sums") != before, name
