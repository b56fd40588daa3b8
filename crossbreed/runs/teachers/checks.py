"""Which tasks have a teacher, whether the run has it, and its recipe."""

from collections.abc import Collection, Mapping, Sequence

from crossbreed.errors import Collector, InputError
from crossbreed.fitness import EngineConfig, Task, TeacherTask, own_kind
from crossbreed.parsing import any_of, suggestion
from crossbreed.recipes.named import weighted_deltas
from crossbreed.types import BASE, Recipe


def teacher_tasks(tasks: Sequence[Task]) -> list[tuple[Task, TeacherTask]]:
    """Returns the tasks that have a teacher, with their kinds."""
    kinds = ((task, own_kind(task)) for task in tasks)
    return [(task, kind) for task, kind in kinds if isinstance(kind, TeacherTask)]


def check_teachers(tasks: Sequence[Task], experts: Collection[str], engine: EngineConfig) -> None:
    """Refuses teachers that are none of the experts, and engines that do not tell the likelihoods of chosen tokens.

    Raises:
        InputError: naming each such task.
    """
    mistakes, known = Collector(), (*experts, BASE)
    for task, kind in teacher_tasks(tasks):
        where = f"fitness.tasks, `{task.name}`"
        if not engine.predicts:
            mistakes.note(
                InputError(
                    f"the engine `{engine.kind}` cannot score task `{task.name}` of kind `{kind.kind}`",
                    expected="an engine that tells the log-probabilities of chosen tokens: `vllm` or `transformers`",
                    got=f"fitness.engine.kind: {engine.kind}",
                    where=where,
                    fix="use one of these engines, or a task of kind `likelihood`, which needs right answers",
                )
            )
        elif kind.teacher not in known:
            mistakes.note(
                InputError(
                    f"the teacher of task `{task.name}` is none of the experts",
                    expected=any_of(known),
                    got=kind.teacher,
                    where=f"{where}, `teacher`",
                    fix=suggestion(kind.teacher, known) or "name an expert of `sources.experts`, or `base`",
                )
            )
    mistakes.require_none()


def teacher_recipe(teacher: str, hashes: Mapping[str, str], *, dtype: str) -> Recipe:
    """Returns the recipe of a teacher: that of the same expert among the baselines, or of the base.

    Args:
        teacher: Its name.
        hashes: Source name -> content hash, of all sources of the run.
        dtype: The dtype of merges.
    """
    return weighted_deltas({} if teacher == BASE else {teacher: 1.0}, hashes=hashes, dtype=dtype)
