"""`crossbreed check`, and what every run begins with: finds the errors that can be found before any expensive step."""

import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from crossbreed.errors import Collector, InputError
from crossbreed.fitness import AnyItems, Evaluation, Surroundings, begun_tasks, evaluate_tasks, judge_calls
from crossbreed.runs.checking.cost import Cost, cost_of
from crossbreed.runs.checking.memory import MemoryNeeds, memory_needs
from crossbreed.runs.checking.questions import Example, TaskFindings, examine_task
from crossbreed.runs.checking.rates import Rate, item_tokens, known_rate, remember_rate
from crossbreed.runs.loggers.config import require_logger
from crossbreed.runs.objects import require_engine, require_sendable
from crossbreed.runs.plan import Plan, build_plan
from crossbreed.runs.publishing.questions import publish_notes
from crossbreed.runs.spec import Spec
from crossbreed.runs.teachers.answers import ask_teachers
from crossbreed.runs.teachers.checks import teacher_recipe
from crossbreed.runs.workers.candidate_engine import start_candidate_engine
from crossbreed.search_spaces import Group, HasGroups, SearchSpace
from crossbreed.sources.naming import ModuleType, module_of
from crossbreed.types import ItemScores

_ANSWERING_S = 60
"""`check --answer` begins no further task after so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The result of checking a valid spec: the plan of a run and its requirements."""

    plan: Plan
    memory_bytes: int
    """The memory of this machine. The engine holds one candidate (`plan.merged_bytes`) and its cache."""
    free_disk_bytes: int
    """The free space in the current folder. A run needs little, a published checkpoint `plan.merged_bytes`."""
    notes: tuple[str, ...]
    """Differences between the sources that affect answers, one sentence each."""
    groups: tuple[Group, ...]
    """The groups of tensors that share coordinates; none in spaces without groups."""
    unplaced: tuple[str, ...]
    """The base's tensors of no known module type."""
    tasks: tuple[TaskFindings, ...]
    """What each task asks, with one item of it."""
    cost: Cost
    """The work of a run, and its time if that was measured on this machine."""
    publish_notes: tuple[str, ...]
    """What `publish` will ask, one sentence each."""
    memory: MemoryNeeds
    """What a regression and slopes take beside the sources."""

    @property
    def examples(self) -> tuple[Example, ...]:
        """One item of each task."""
        return tuple(task.example for task in self.tasks)

    def to_json(self) -> dict[str, Any]:
        """Returns the findings for `check --json`."""
        return {
            "schema": 1,
            "name": self.plan.spec.name,
            "experts": list(self.plan.structure.experts),
            "coordinates": list(self.plan.coordinates),
            "objectives": [objective.name for objective in self.plan.objectives],
            "constraints": [constraint.name for constraint in self.plan.criteria.constraints],
            "cost": self.cost.to_json(),
            "tasks": [task.to_json() for task in self.tasks],
            "notes": list(self.notes),
            "publish": list(self.publish_notes),
            "groups": [{"label": group.label, "tensors": list(group.tensors)} for group in self.groups],
            "unplaced": list(self.unplaced),
            "candidate_bytes": self.plan.merged_bytes,
            "memory_bytes": self.memory_bytes,
            "free_disk_bytes": self.free_disk_bytes,
            "regression_bytes": self.memory.walk,
            "slopes_bytes": {str(stage): size for stage, size in self.memory.slopes.items()},
        }


def checked_plan(spec: Spec) -> Plan:
    """Builds the plan of a run, and refuses all that is known to fail: `check` and `run` begin with this.

    Raises:
        InputError: the spec is invalid, or this machine cannot run it.
    """
    require_engine(spec)
    require_sendable(spec)
    if spec.log is not None:
        require_logger(spec.log)
    plan, mistakes = build_plan(spec), Collector()
    with mistakes.noted():
        plan = plan.measured()
    if spec.workers.address is None:  # else other machines hold the candidates
        with mistakes.noted():
            require_memory(plan.merged_bytes, memory_bytes())
    mistakes.require_none()
    return plan


def check_spec(spec: Spec, *, answer: bool = False) -> Findings:
    """Checks a spec, and returns the plan and cost of a run.

    Args:
        spec: The spec to check.
        answer: Also start the engine on the base and have it answer a chunk of each task's search items; where a judge
            is asked, one item.

    Raises:
        InputError: the spec is invalid.
    """
    plan = checked_plan(spec)
    tasks = [examine_task(plan, task) for task in plan.tasks]
    if answer:
        tasks = _answered(plan, tasks)
    return Findings(
        plan=plan,
        memory_bytes=memory_bytes(),
        free_disk_bytes=shutil.disk_usage(".").free,
        notes=plan.weights.sources.notes if plan.weights else (),
        groups=tuple(dict.fromkeys(group for stage in plan.stages for group in _groups(stage.space))),
        unplaced=tuple(name for name in plan.structure.tensors if module_of(name) is ModuleType.OTHER),
        tasks=tuple(tasks),
        cost=cost_of(plan, known_rate(plan)),
        publish_notes=publish_notes(plan),
        memory=memory_needs(plan),
    )


def _groups(space: SearchSpace) -> tuple[Group, ...]:
    return space.groups if isinstance(space, HasGroups) else ()


def memory_bytes() -> int:
    """Returns the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_memory(merged_bytes: int, present: int) -> None:
    """Raises InputError unless one candidate, which the engine holds, fits; merging adds one tensor at a time."""
    if merged_bytes > present:
        raise InputError(
            "the model does not fit this machine's memory",
            expected=f"more than {merged_bytes / 1e9:.1f} GB",
            got=f"{present / 1e9:.1f} GB in this machine",
            fix="join a cluster with larger workers: workers.address",
        )


def _answered(plan: Plan, tasks: list[TaskFindings]) -> list[TaskFindings]:
    """Returns the findings with answers of the base, and keeps the time that they took."""
    around = Surroundings(seed=plan.spec.seed)
    with ExitStack() as closing:
        begun = begun_tasks(plan.tasks, around, closing)
        candidate_engine = start_candidate_engine(plan.spec.fitness.engine, plan.weights, around)
        closing.callback(candidate_engine.close)
        teacher_answers = ask_teachers(
            begun,
            _search_items(plan),
            lambda teacher: teacher_recipe(teacher, plan.structure.hashes, dtype=plan.dtype),
            lambda recipe: candidate_engine.adopt(recipe).handle,
        )
        adopted = candidate_engine.adopt(plan.base_recipe)
        one_each = _search_items(plan, at_most=1)
        first = evaluate_tasks(adopted.handle, begun, one_each, teacher_answers)  # an engine warms up on it
        start_s, chunks = time.perf_counter(), dict[str, Evaluation]()
        for task in begun:
            if time.perf_counter() - start_s < _ANSWERING_S and not judge_calls(task):
                chunks[task.name] = evaluate_tasks(adopted.handle, [task], _search_items(plan), teacher_answers)
        answer_s = time.perf_counter() - start_s
    num_items = sum(chunk.num_items for chunk in chunks.values())
    fixed_s = sum(adopted.seconds.values())
    if num_items:
        item_s = answer_s / num_items
        remember_rate(plan, Rate(fixed_s=fixed_s, item_s=item_s, item_tokens=item_tokens(plan), num_trials=0))
    return [
        task.answered(
            first.texts[task.name][0],
            first.tasks[task.name].mean,
            _values_of_items(chunks[task.name].tasks[task.name]) if task.name in chunks else (),
        )
        for task in tasks
    ]


def _values_of_items(scores: ItemScores) -> tuple[float, ...]:
    return scores.values if scores.means is None else ()


def _search_items(plan: Plan, *, at_most: int | None = None) -> dict[str, AnyItems]:
    """Returns task -> its first search items: as many as share a call of the engine, or fewer."""
    found = dict[str, AnyItems]()
    for task in plan.tasks:
        items = plan.items["search"][task.name]
        found[task.name] = type(items)(items=items.items[: at_most or task.kind.chunk])
    return found
