"""`crossbreed check`, and what every run begins with: finds the errors that can be found before any expensive step."""

import os
import shutil
from dataclasses import dataclass, replace

from crossbreed.errors import InputError
from crossbreed.fitness import Loglikelihood, Task, evaluate_tasks
from crossbreed.runs.loggers.config import require_logger
from crossbreed.runs.objects import require_engine, require_sendable
from crossbreed.runs.plan import Plan, build_plan
from crossbreed.runs.spec import Spec
from crossbreed.runs.workers.candidate_engine import start_candidate_engine
from crossbreed.search_spaces import Group, HasGroups
from crossbreed.sources.naming import ModuleType, module_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One item of a task, rendered."""

    task: str
    item_id: str
    prompt: str
    gold: str
    """The gold answer; empty if there is none."""
    scored: str = ""
    """The text whose likelihood is scored after the prompt, where there is no gold answer."""
    answer: str | None = None
    """The base's answer, if the engine was started."""
    value: float | None = None
    """The score of that answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The result of checking a valid spec: the plan of a run and its requirements."""

    plan: Plan
    memory_bytes: int
    """The memory of this machine. The engine holds one candidate (`plan.merged_bytes`) and its cache."""
    free_disk_bytes: int
    """The free space in the current folder. A run needs little, a published checkpoint `plan.merged_bytes`."""
    notes: tuple[str, ...]
    """Differences between the sources that affect answers, and what `publish` will ask for: one sentence each."""
    groups: tuple[Group, ...]
    """The groups of tensors that share coordinates; none in spaces without groups."""
    unplaced: tuple[str, ...]
    """The base's tensors of no known module type."""
    examples: tuple[Example, ...]
    """One for each task."""


def checked_plan(spec: Spec) -> Plan:
    """Builds the plan of a run, and refuses all that is known to fail: `check` and `run` begin with this.

    Raises:
        InputError: the spec is invalid, or this machine cannot run it.
    """
    require_engine(spec)
    require_sendable(spec)
    if spec.log is not None:
        require_logger(spec.log)
    plan = build_plan(spec)
    plan.check_engine()
    if spec.workers.address is None:  # else other machines hold the candidates
        _check_memory(plan, memory_bytes())
    return plan


def check_spec(spec: Spec, *, answer: bool = False) -> Findings:
    """Checks a spec, and returns the plan and cost of a run.

    Args:
        spec: The spec to check.
        answer: Also start the engine on the base and have it answer the examples.

    Raises:
        InputError: the spec is invalid.
    """
    plan = checked_plan(spec)
    examples = [_example(plan, task) for task in plan.tasks]
    return Findings(
        plan=plan,
        memory_bytes=memory_bytes(),
        free_disk_bytes=shutil.disk_usage(".").free,
        notes=(*plan.weights.sources.notes, *_publish_notes(plan)) if plan.weights else (),
        groups=plan.space.groups if isinstance(plan.space, HasGroups) else (),
        unplaced=tuple(name for name in plan.structure.tensors if module_of(name) is ModuleType.OTHER),
        examples=tuple(_answered(plan, examples) if answer else examples),
    )


def _publish_notes(plan: Plan) -> list[str]:
    from crossbreed.runs.publishing.publish_run import publish_notes  # needs what merges weights

    return publish_notes(plan)


def memory_bytes() -> int:
    """Returns the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_memory(plan: Plan, present: int) -> None:
    """Raises InputError unless one candidate, which the engine holds, fits; merging adds one tensor at a time."""
    if plan.merged_bytes > present:
        raise InputError(
            "the model does not fit this machine's memory",
            expected=f"more than {plan.merged_bytes / 1e9:.1f} GB",
            got=f"{present / 1e9:.1f} GB",
            fix="join a cluster with larger workers: workers.address",
        )


def _example(plan: Plan, task: Task) -> Example:
    item = plan.items["search"][task.name].items[0]
    request, gold = task.requests(item)[0], task.kind.shown(item)
    scored = request.continuation if isinstance(request, Loglikelihood) and not gold else ""
    return Example(task=task.name, item_id=item.id, prompt=request.prompt.text, gold=gold, scored=scored)


def _answered(plan: Plan, examples: list[Example]) -> list[Example]:
    candidate_engine = start_candidate_engine(plan.spec.fitness.engine, plan.weights)
    try:
        handle = candidate_engine.adopt(plan.base_recipe).handle
        first = {name: type(items)(items=items.items[:1]) for name, items in plan.items["search"].items()}
        found = evaluate_tasks(handle, plan.tasks, first)
    finally:
        candidate_engine.close()
    return [
        replace(example, answer=found.texts[example.task][0], value=found.tasks[example.task].mean)
        for example in examples
    ]
