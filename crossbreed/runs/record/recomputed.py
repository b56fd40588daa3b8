"""The objectives of a tell, recomputed from its tasks: a journal has both, and they must agree."""

import math
from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter, ValidationError

from crossbreed.errors import InputError
from crossbreed.runs.record.records import RunRecord
from crossbreed.runs.spec.objectives import Objective, ObjectiveConfig, build_objectives
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
        configs = _CONFIGS.validate_python(_plain(fitness["objectives"]))
        return [build_objectives(configs, dict.fromkeys(map(str, tasks), less)) for less in (False, True)]
    except (ValidationError, InputError):
        return ()


def require_agreement(
    found: tuple[float, ...], tasks: Mapping[str, ItemScores], either: Sequence[tuple[Objective, ...]]
) -> None:
    """Raises ValueError if objectives are not those of their tasks, last digits aside."""
    recomputed = [tuple(objective.of(tasks) for objective in objectives) for objectives in either]
    if recomputed and not any(_are_near(found, values) for values in recomputed):
        raise ValueError(f"objectives {list(found)}, but the tasks give {list(recomputed[0])}")


def _are_near(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))
        for a, b in zip(one, other, strict=True)
    )


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _plain(value: object) -> object:
    """Returns JSON with tuples for lists, as strict settings have them."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return value
