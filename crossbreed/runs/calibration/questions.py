"""What a calibration loss is taken of, and the experts that know how to answer it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from crossbreed.errors import InputError
from crossbreed.fitness import Generate, Item, Task, TeacherTask, own_kind
from crossbreed.optimizer import CalibrationNeeds
from crossbreed.parsing import any_of, suggestion
from crossbreed.runs.calibration.inputs import CalibrationInputs
from crossbreed.runs.spec.objectives import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """An item of a task with its right answer, or a prompt that experts answer: of a task with a teacher, each item."""

    task: Task
    weight: float
    """Of the task's loss."""
    item: Item | None = None
    prompt: Generate | None = None

    def rule(self) -> list[Any]:
        """Returns what the loss depends on, as JSON: requests as they are, with the turns of chats and their limits."""
        from crossbreed.runs.regression.texts import golds_of  # needs torch

        if self.item is not None:
            asked = golds_of(self.task, [self.item])
            requests = [asdict(one) for one in (*asked.requests, asked.asking) if one is not None]
        else:
            assert self.prompt is not None, "an item or a prompt"
            requests = [asdict(self.prompt)]
        return [self.task.name, self.weight, requests, self.top_k]

    @property
    def top_k(self) -> int | None:
        """How many tokens are told apart at each place, if its task has a teacher; None: all of the vocabulary."""
        kind = own_kind(self.task)
        return kind.top_k if isinstance(kind, TeacherTask) else None


def question_of(task: Task, item: Item, weight: float) -> Question:
    """Returns an item as what the loss is taken of."""
    if isinstance(kind := own_kind(task), TeacherTask):
        return Question(task=task, prompt=kind.requests(item)[0], weight=weight)
    return Question(task=task, item=item, weight=weight)


def prompts_by_task(inputs: CalibrationInputs, needs: CalibrationNeeds) -> dict[str, tuple[Generate, ...]]:
    """Returns task -> prompts without answers.

    Raises:
        InputError: an unknown task, or as `prompts_of`.
    """
    if not needs.prompts:
        return {}
    from crossbreed.runs.regression.texts import prompts_of  # needs torch

    tasks = {task.name: task for task in inputs.tasks}
    for name in needs.prompts:
        if name not in tasks:
            raise InputError(
                f"prompts are given for the unknown task `{name}`",
                expected=any_of(tasks),
                got=name,
                where="optimizer.options.prompts",
                fix=suggestion(name, tasks),
            )
    return {
        name: tuple(prompts_of(tasks[name], path, "optimizer.options.prompts", items=inputs.items))
        for name, path in needs.prompts.items()
    }


def num_held_out(number: int, part: float) -> int:
    """Returns how many of a task's items are held out: at least one of several, never all."""
    return 0 if part == 0 or number < 2 else min(number - 1, max(1, round(part * number)))


def calibrated(tasks: Sequence[Task], objective: Objective) -> list[tuple[Task, float]]:
    """Returns the tasks of an objective, each with the weight of its loss: negative if it is to be bad at the task."""
    shares = objective.shares
    signs = {task.name: -1 if (task.name in objective.lesser) is task.higher_is_better else 1 for task in tasks}
    return [(task, signs[task.name] * abs(shares[task.name])) for task in tasks if shares.get(task.name)]


def experts_of(task: Task, inputs: CalibrationInputs) -> Sequence[str]:
    """Returns the experts of a task: its teacher, the one with its name, those without a task of their name, or all."""
    if isinstance(kind := own_kind(task), TeacherTask):
        return (kind.teacher,)
    names = [one.name for one in inputs.tasks]
    if task.name in inputs.experts:
        return (task.name,)
    return tuple(expert for expert in inputs.experts if expert not in names) or inputs.experts
