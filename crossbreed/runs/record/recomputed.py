"""The objectives of a tell, recomputed from its tasks: a journal has both, and they must agree."""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import TypeAdapter, ValidationError

from crossbreed.errors import InputError
from crossbreed.runs.record.records import RunRecord, to_json
from crossbreed.runs.spec.objectives import Floats, Objective, ObjectiveConfig, build_objectives
from crossbreed.types import ItemScores

_CONFIGS = TypeAdapter(tuple[ObjectiveConfig, ...])


def recorded_objectives(run: RunRecord) -> Sequence[tuple[Objective, ...]]:
    """Returns the objectives of a run as its first record has them, for either direction of its tasks' metrics.

    What is better is known to the tasks, which need not be installed where a journal is read. Empty if the record says
    nothing of objectives.
    """
    fitness = run.spec.get("fitness")
    if not isinstance(fitness, Mapping) or "objectives" not in fitness:
        return ()
    tasks = [task.get("name") for task in _listed(fitness.get("tasks")) if isinstance(task, Mapping)]
    try:
        configs = _CONFIGS.validate_json(json.dumps(to_json(run)["spec"]["fitness"]["objectives"]))
        return [build_objectives(configs, dict.fromkeys(map(str, tasks), less)) for less in (False, True)]
    except (ValidationError, InputError):
        return ()


def first_disagreement(
    told: Sequence[tuple[tuple[float, ...], Mapping[str, ItemScores]]], either: Sequence[tuple[Objective, ...]]
) -> tuple[int, str] | None:
    """Returns the index and the contradiction of the first objectives that are not those of their tasks.

    Last digits aside. All are computed together, which takes a tenth of the time that one by one takes.

    Args:
        told: Objectives, and the scores of their tasks.
        either: See `recorded_objectives`; empty: nothing is compared.
    """
    if not told or not either:
        return None
    names = {task for objective in either[0] for task in objective.tasks}
    means = {name: np.array([tasks[name].mean for _, tasks in told]) for name in names}
    recomputed = [np.stack([objective.over(means) for objective in objectives], axis=1) for objectives in either]
    for index, (found, _) in enumerate(told):
        if not any(_are_near(found, values_TO[index]) for values_TO in recomputed):
            return index, f"objectives {list(found)}, but the tasks give {recomputed[0][index].tolist()}"
    return None


def _are_near(one: Sequence[float], other: Floats) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))
        for a, b in zip(one, other.tolist(), strict=True)
    )


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
