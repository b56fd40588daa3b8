"""The items of a calibration loss, and the experts that know how to answer them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossbreed.fitness import Item, Loglikelihood, Task

if TYPE_CHECKING:
    from crossbreed.runs.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """An item of a task."""

    task: Task
    item: Item
    weight: float
    """Of the task's loss."""

    @property
    def request(self) -> Loglikelihood:
        """The right answer."""
        return self.task.calibration(self.item)


def num_held_out(number: int, part: float) -> int:
    """Returns how many of a task's items are held out: at least one of several, never all."""
    return 0 if part == 0 or number < 2 else min(number - 1, max(1, round(part * number)))


def experts_of(task: Task, plan: "Plan") -> Sequence[str]:
    """Returns the experts of a task: the one with its name, or those without a task of their name, or all."""
    names = [one.name for one in plan.tasks]
    if task.name in plan.experts:
        return (task.name,)
    return tuple(expert for expert in plan.experts if expert not in names) or plan.experts
