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

    What is better is known to the tasks, which need not be installed where a journal is read. Each objective may have
    its own direction. Empty if the record says nothing of objectives.
    """
    either = [objectives_as_recorded(run, dict.fromkeys(_names(run), less)) for less in (False, True)]
    return [objectives for objectives in either if objectives is not None]


def objectives_as_recorded(run: RunRecord, minimized: Mapping[str, bool]) -> tuple[Objective, ...] | None:
    """Returns the objectives of a run as its first record has them; None if it says nothing of them.

    Args:
        run: The first record.
        minimized: Task -> whether less of its metric is better; if a task is not known, more is.
    """
    directions = {name: minimized.get(name, False) for name in _names(run)} | dict(minimized)
    if "objectives" not in _fitness(run):
        return None
    try:
        configs = _CONFIGS.validate_json(json.dumps(to_json(run)["spec"]["fitness"]["objectives"]))
        return build_objectives(configs, directions)
    except (ValidationError, InputError):
        return None


def _names(run: RunRecord) -> list[str]:
    """Returns the names of the tasks, in the order of the spec."""
    return [str(task.get("name")) for task in _listed(_fitness(run).get("tasks")) if isinstance(task, Mapping)]


def _fitness(run: RunRecord) -> Mapping[str, object]:
    fitness = run.spec.get("fitness")
    return fitness if isinstance(fitness, Mapping) else {}


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
    recomputed = [np.stack([objective.plain.over(means) for objective in objectives], axis=1) for objectives in either]
    for index, (found, _) in enumerate(told):
        if not _are_near(found, [values_TO[index] for values_TO in recomputed]):
            return index, f"objectives {list(found)}, but the tasks give {recomputed[0][index].tolist()}"
    return None


def _are_near(found: Sequence[float], either: Sequence[Floats]) -> bool:
    """Returns whether each objective has the value of one of the directions."""
    return all(len(found) == len(values) for values in either) and all(
        any(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b)) for b in values)
        for a, values in zip(found, np.stack(either, axis=1).tolist(), strict=True)
    )


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
