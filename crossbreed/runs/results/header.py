"""What `show` needs of a run's spec, read so that a run can be shown where its plug-ins are not installed."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from crossbreed.errors import InputError
from crossbreed.fitness import ENGINES, AnyTaskConfig, TaskConfig
from crossbreed.fitness.engines.registry import Takes
from crossbreed.runs.objects import has_objects
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.recomputed import objectives_as_recorded
from crossbreed.runs.record.records import RunRecord
from crossbreed.runs.results.vouching import takes_of
from crossbreed.runs.search.pace import Limits, limits_of
from crossbreed.runs.spec import load_spec
from crossbreed.runs.spec.constraints import Constraint, ConstraintConfig, build_constraints
from crossbreed.runs.spec.criteria import Criteria
from crossbreed.runs.spec.objectives import Objective, ObjectiveConfig, build_objectives
from crossbreed.runs.stages.naming import StageName, stage_names
from crossbreed.yaml_files import read_yaml

_TASKS: TypeAdapter[list[TaskConfig]] = TypeAdapter(list[AnyTaskConfig])
_OBJECTIVES = TypeAdapter(tuple[ObjectiveConfig, ...])
_CONSTRAINTS = TypeAdapter(tuple[ConstraintConfig, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a spec says of its run's trials."""

    name: str
    takes: Takes | None
    """What the engine is given; None where it is not installed."""
    objectives: tuple[Objective, ...]
    minimized: Mapping[str, bool]
    """Task -> whether less of its metric is better; without a task's plug-in, as its objectives have it."""
    constraints: tuple[Constraint, ...] = ()
    limits: Limits = field(default_factory=lambda: Limits.of(trials=None, seconds=None))
    """What ends its searches, as far as that is known."""
    stages: tuple[StageName, ...] = ()
    """The names of its stages; none of a run without a list of them."""
    is_of_program: bool = False
    """Whether parts of it are objects of a Python program."""

    @property
    def criteria(self) -> Criteria:
        """What trials are judged by."""
        return Criteria(objectives=self.objectives, constraints=self.constraints)


def read_header(folder: RunFolder, begun: RunRecord | None) -> Header:
    """Reads a run's spec, or as much of it as can be read without the plug-ins that it names.

    Args:
        folder: The run folder.
        begun: The first record of its journal; None if it is not written yet.

    Raises:
        InputError: the spec is damaged, does not tell which values are better, or has other objectives than the
            journal: then what the journal holds would be shown under wrong names.
    """
    known = _read_header(folder)
    recorded = objectives_as_recorded(begun, known.minimized) if begun else None
    if recorded is not None and recorded != known.objectives:
        raise InputError(
            "the spec of this run folder is not the one that its run was started with",
            expected=_named(recorded),
            got=_named(known.objectives),
            where=f"{folder.spec}, fitness.objectives",
            fix="give `crossbreed run` the run's own spec and this folder as --out, which writes the file again",
        )
    return replace(known, stages=stage_names(begun.spec)) if begun else known


def _named(objectives: Sequence[Objective]) -> str:
    return "; ".join(objective.name + " (less is better)" * objective.minimize for objective in objectives)


def _read_header(folder: RunFolder) -> Header:
    try:
        spec = load_spec(folder.spec)
    except InputError as error:
        with suppress(OSError, LookupError, TypeError, AttributeError, ValueError):
            return _without_plugins(folder)
        raise error from None
    criteria = spec.fitness.criteria
    return Header(
        name=spec.name,
        takes=takes_of(spec.fitness.engine),
        objectives=criteria.objectives,
        constraints=criteria.constraints,
        minimized=spec.fitness.minimized,
        limits=limits_of(spec),
        is_of_program=has_objects(spec),
    )


def read_tasks(folder: RunFolder) -> list[TaskConfig]:
    """Returns the tasks of a run's spec, also where its other parts are not installed; those that can be read."""
    found = list[TaskConfig]()
    with suppress(OSError, LookupError, TypeError, ValueError):  # InputError is a ValueError
        for raw in read_yaml(folder.spec.read_text(), what="the spec", where=str(folder.spec))["fitness"]["tasks"]:
            with suppress(ValueError):
                found += _TASKS.validate_python([raw], context={"folder": folder.path})
    return found


def _without_plugins(folder: RunFolder) -> Header:
    raw = read_yaml(folder.spec.read_text(), what="the spec", where=str(folder.spec))
    fitness, kind = raw["fitness"], raw["fitness"]["engine"]["kind"]
    takes = ENGINES[kind].takes if kind in ENGINES.working() else None
    objectives = _objectives(fitness, folder)
    minimized = {task: objective.minimize for objective in objectives for task in objective.tasks}
    constraints = build_constraints(_CONSTRAINTS.validate_python(fitness.get("constraints", [])), minimized, {})
    return Header(name=raw["name"], takes=takes, objectives=objectives, constraints=constraints, minimized=minimized)


def _objectives(fitness: Mapping[str, Any], folder: RunFolder) -> tuple[Objective, ...]:
    """The objectives: which values are better is known to the tasks, and written in the report."""
    configs = _OBJECTIVES.validate_python(fitness["objectives"])
    try:
        tasks = _TASKS.validate_python(fitness["tasks"], context={"folder": folder.path})
    except (InputError, ValidationError):
        reported = json.loads(folder.report_json.read_text())["objectives"]
        names = [task["name"] for task in fitness["tasks"]]
        return _directed(configs, names, [objective["minimize"] for objective in reported])
    return build_objectives(configs, {task.name: not task.higher_is_better for task in tasks})


def _directed(
    configs: Sequence[ObjectiveConfig], tasks: Sequence[str], minimize: Sequence[bool]
) -> tuple[Objective, ...]:
    directed = [
        config.model_copy(update={"minimize": less})
        for config, less in zip(configs or [ObjectiveConfig(mean=tuple(tasks))], minimize, strict=True)
    ]
    return build_objectives(directed, dict.fromkeys(tasks, False))
