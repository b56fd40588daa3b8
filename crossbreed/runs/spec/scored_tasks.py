"""What a spec's tasks must be together: named apart, and scored by its engine."""

from pydantic import ValidationInfo

from crossbreed.config import refused
from crossbreed.errors import Collector, InputError
from crossbreed.fitness import EngineConfig, TaskConfig


def unique_names(tasks: list[TaskConfig]) -> list[TaskConfig]:
    """Returns tasks of which no two have one name; raises ValueError for others."""
    names = [task.name for task in tasks]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two tasks have the name {doubled[0]!r}")
    return tasks


def scorable(tasks: list[TaskConfig], info: ValidationInfo) -> list[TaskConfig]:
    """Returns tasks that the engine scores: it answers what they ask, or scores their items itself."""
    engine: EngineConfig | None = info.data.get("engine")
    mistakes = Collector()
    for task in tasks:
        with mistakes.noted():
            if engine is not None:
                _require_scorable(task, engine)
    if mistakes.errors:
        raise refused(mistakes.errors)
    return tasks


def _require_scorable(task: TaskConfig, engine: EngineConfig) -> None:
    """Raises InputError for a task that an engine does not score."""
    if task.is_scored_by_engine and not engine.scores_items:
        raise InputError(
            f"nobody scores the items of task `{task.name}`",
            expected="a `function` in the task, or an engine that scores items: `kind: python`",
            got=f"a task of kind `{task.kind}` without a function, and the engine `{engine.kind}`",
            where="fitness.tasks",
            fix="name the function that scores them",
        )
    if engine.scores_items and not task.is_scored_by_engine:
        raise InputError(
            f"the engine `{engine.kind}` does not answer what task `{task.name}` asks",
            expected="tasks whose items the engine's function scores: {name: NAME, kind: python, items: FILE}",
            got=f"kind: {task.kind}",
            where="fitness.tasks",
            fix="remove its prompt and function, or use an engine that runs language models",
        )
