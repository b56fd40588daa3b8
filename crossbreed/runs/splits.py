"""The items of each split, and what follows where a provider splits them and tells only means."""

from collections.abc import Sequence
from functools import partial

from crossbreed.errors import Collector, InputError
from crossbreed.fitness import (
    AnyItems,
    Split,
    SplitConfig,
    Task,
    check_disjoint,
    own_split,
    questions_of,
    split_items,
)
from crossbreed.optimizer import OptimizerConfig
from crossbreed.runs.spec.criteria import lengths_in
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import SplitName


def split_tasks(
    tasks: Sequence[Task], config: SplitConfig, *, seed: int, where: str = "fitness.split"
) -> dict[SplitName, dict[str, AnyItems]]:
    """Splits every task's items, but for those that their provider has split; returns split -> task -> items.

    Args:
        tasks: The tasks.
        config: The items of each split.
        seed: Of the spec.
        where: The key of the split, for messages.
    """
    splits, mistakes = dict[str, Split](), Collector()
    for task in tasks:
        with mistakes.noted():
            splits[task.name] = own_split(task) or split_items(
                task.items, config, seed=seed, task=task.name, stratify=task.kind.stratify, where=where
            )
    with mistakes.noted():
        check_disjoint(splits, {task.name: partial(questions_of, task) for task in tasks})
    mistakes.require_none()
    return {
        "search": {name: split.search for name, split in splits.items()},
        "select": {name: split.select for name, split in splits.items()},
        "report": {name: split.report for name, split in splits.items()},
    }


def told_as_means(objectives: Sequence[Objective], tasks: Sequence[Task]) -> list[str]:
    """Returns the tasks of the objectives of which only means are told."""
    read = {task for objective in objectives for task in objective.tasks}
    return [task.name for task in tasks if task.name in read and own_split(task) is not None]


def require_items(optimizer: OptimizerConfig, means: Sequence[str]) -> None:
    """Refuses an optimizer that needs the values of items, where an objective reads tasks of which only means are told.

    Args:
        optimizer: Its settings.
        means: Those tasks.
    """
    if means and optimizer.reads_items:
        raise InputError(
            f"optimizer `{optimizer.kind}` needs the value of each item, and a task tells only means",
            expected="tasks whose items are told",
            got=f"{', '.join(f'`{task}`' for task in means)}, one value for each split",
            where="optimizer.kind",
            fix="use another optimizer, such as `kind: cma_es`, or ask the provider for values of items "
            "(`serve.detail: items`)",
        )


def require_losses(optimizer: OptimizerConfig, objectives: Sequence[Objective]) -> None:
    """Refuses an optimizer that goes down slopes, where an objective is the length of answers, which has none.

    Args:
        optimizer: Its settings.
        objectives: The run's.
    """
    has_slopes = optimizer.slope_kind is not None or optimizer.calibration is not None
    if has_slopes and (lengths := lengths_in(objectives)):
        raise InputError(
            f"optimizer `{optimizer.kind}` needs slopes of a loss, and the length of answers has none",
            expected="objectives of tasks with right answers",
            got=f"length: {lengths[0]}",
            where="optimizer.kind",
            fix="use another optimizer, such as `kind: cma_es`, or bound the length by a constraint: "
            f"{{length: {lengths[0]}, at_most: 90% base}}",
        )
