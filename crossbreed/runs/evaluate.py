"""`crossbreed evaluate`: one checkpoint, the items and the engine of a spec."""

from typing import Any

from crossbreed.fitness import build_engine, evaluate, load_tasks
from crossbreed.kernels import Fingerprinted, materialize
from crossbreed.runs.history import SplitName
from crossbreed.runs.plan import split_tasks
from crossbreed.runs.spec import Spec
from crossbreed.runs.statistics import task_intervals
from crossbreed.sources import open_sources
from crossbreed.types import Recipe


def evaluate_model(model: str, spec: Spec, *, split: SplitName = "search") -> dict[str, Any]:
    """Scores a checkpoint and returns what `evaluate --json` promises.

    Args:
        model: Folder or hub id of a full checkpoint.
        spec: Whose tasks, splits and engine are used; its sources are not opened.
        split: Which items. Looking at `report` spends it: what is chosen by it can no longer be reported on it.
    """
    sources = open_sources(model, {})
    tasks = load_tasks(spec.fitness.tasks)
    recipe = Recipe(base="base", sources=sources.structure.hashes, rules=(), dtype=sources.structure.dtype)
    engine = build_engine(spec.fitness.engine, sources.base.path)
    try:
        stream = Fingerprinted(materialize(recipe, sources), base=sources.base)
        answered = evaluate(engine.adopt(recipe, iter(stream)), tasks, split_tasks(spec, tasks)[split])
    finally:
        engine.close()
    return {
        "schema": 1,
        "model": model,
        "split": split,
        "fingerprint": stream.value,
        "tasks": {name: found.to_json() for name, found in task_intervals(answered.tasks, seed=spec.seed).items()},
    }
