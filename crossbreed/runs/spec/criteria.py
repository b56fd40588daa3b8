"""What candidates are judged by: objectives and constraints, and what the baselines have to tell for them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from crossbreed.errors import Collector, InputError
from crossbreed.fitness import TaskConfig
from crossbreed.runs.spec.constraints import Constraint, ConstraintConfig, build_constraints
from crossbreed.runs.spec.objectives import (
    LENGTH,
    MeasureConfig,
    Objective,
    ObjectiveConfig,
    Scores,
    build_objectives,
    check_objectives,
    length_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """The objectives and constraints of a run."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    @property
    def lengths(self) -> tuple[str, ...]:
        """The tasks of which the length of answers is measured, in the order of their first mention."""
        return lengths_in((*self.objectives, *self.constraints))

    @property
    def needs_base(self) -> bool:
        """Whether something is relative to the base."""
        return any(measure.needs_base for measure in (*self.objectives, *self.constraints))

    @property
    def needs_experts(self) -> bool:
        """Whether something is relative to the best expert."""
        return any(objective.relative_to == "experts" for objective in self.objectives)

    @property
    def are_plain(self) -> bool:
        """Whether a trial's own tell says all: there are no constraints, and nothing is relative."""
        return not self.constraints and not self.needs_base

    def bound_to(self, base: Scores, experts: Mapping[str, Scores]) -> Self:
        """Returns the criteria with the gains of the best expert at each task.

        Args:
            base: The base's scores on the search items.
            experts: Expert -> its scores on them.

        Raises:
            InputError: at some task, no expert is better than the base.
        """
        return replace(self, objectives=tuple(_with_gains(one, base, experts) for one in self.objectives))

    def judged(self, scores: Scores, base: Scores | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns the values of the objectives, and how far outside each constraint: 0 or less where it is kept."""
        values = tuple(objective.of(scores, base) for objective in self.objectives)
        return values, tuple(constraint.excess(scores, base) for constraint in self.constraints)


def lengths_in(measures: Iterable[Objective | Constraint]) -> tuple[str, ...]:
    """Returns the tasks of which some measures read the length of answers."""
    read = (task for measure in measures for task in measure.tasks if task.startswith(LENGTH))
    return tuple(dict.fromkeys(task.removeprefix(LENGTH) for task in read))


def _with_gains(objective: Objective, base: Scores, experts: Mapping[str, Scores]) -> Objective:
    if objective.relative_to != "experts":
        return objective
    gains = [_gain(task, task in objective.less, base, experts) for task in objective.tasks]
    return replace(objective, gains=tuple(gains))


def _gain(task: str, less: bool, base: Scores, experts: Mapping[str, Scores]) -> float:
    """Returns what the best expert adds to the base's mean."""
    means = {name: scores[task].mean for name, scores in experts.items()}
    best = (min if less else max)(means, key=means.__getitem__)
    gain = means[best] - base[task].mean
    if gain == 0 or (gain < 0) is not less:
        raise InputError(
            f"at task `{task}` no expert is better than the base, so there is no gain of which a share could be taken",
            expected="an expert that is better than the base on the search items, for `relative_to: experts`",
            got=f"base {base[task].mean:.4f}, best expert `{best}` {means[best]:.4f}",
            where="fitness.objectives",
            fix=f"take `{task}` out of the objective, write `relative_to: base`, or give an expert of it; in a new run "
            "folder",
        )
    return gain


def build_criteria(
    objectives: Sequence[ObjectiveConfig], constraints: Sequence[ConstraintConfig], tasks: Sequence[TaskConfig]
) -> Criteria:
    """Returns the criteria of a spec.

    Raises:
        InputError: one of them cannot be judged by.
    """
    minimized = directions_of(tasks)
    return Criteria(
        objectives=build_objectives(objectives, minimized),
        constraints=build_constraints(constraints, minimized, _spans(tasks)),
    )


def directions_of(tasks: Iterable[TaskConfig]) -> dict[str, bool]:
    """Returns task name -> whether less of its metric is better."""
    return {task.name: not task.higher_is_better for task in tasks}


def mistakes_in_objectives(configs: Sequence[ObjectiveConfig], tasks: Sequence[TaskConfig]) -> tuple[InputError, ...]:
    """Returns what is wrong with each of the objectives of a spec."""
    return (*check_objectives(configs, directions_of(tasks)), *_unmeasured(configs, tasks, "objectives"))


def mistakes_in_constraints(configs: Sequence[ConstraintConfig], tasks: Sequence[TaskConfig]) -> tuple[InputError, ...]:
    """Returns what is wrong with each of the constraints of a spec."""
    mistakes = Collector()
    build_constraints(configs, directions_of(tasks), _spans(tasks), mistakes=mistakes)
    return (*mistakes.errors, *_unmeasured(configs, tasks, "constraints"))


def _spans(tasks: Iterable[TaskConfig]) -> dict[str, tuple[float, float]]:
    """Returns the smallest and largest values of tasks, and of the lengths of their answers, where they are known."""
    found = dict[str, tuple[float, float]]()
    for task in tasks:
        if task.span is not None:
            found[task.name] = task.span
        if task.most_tokens is not None:
            found[length_of(task.name)] = (0.0, float(task.most_tokens))
    return found


def _unmeasured(configs: Sequence[MeasureConfig], tasks: Sequence[TaskConfig], key: str) -> Iterable[InputError]:
    """Yields what is wrong with each length: of a task that generates nothing, or under a name that is taken."""
    known = {task.name: task for task in tasks}
    for i, config in enumerate(configs):
        task, where = known.get(config.length or ""), f"fitness.{key}.{i}"
        if task is not None and task.most_tokens is None:
            texts = [one.name for one in tasks if one.most_tokens is not None]
            yield InputError(
                f"task `{task.name}` generates no texts whose length could be measured",
                expected=f"a task that does: {', '.join(texts) or 'one of kind `generate`, or `python` with a prompt'}",
                got=f"kind: {task.kind}",
                where=where,
                fix=f"write `length: {texts[0]}`" if texts else "remove it, or add a task that generates texts",
            )
        if task is not None and length_of(task.name) in known:
            yield InputError(
                f"a task has the name under which the length of `{task.name}` is measured",
                expected=f"no task called `{length_of(task.name)}`",
                got=length_of(task.name),
                where=where,
                fix="give that task another name",
            )
