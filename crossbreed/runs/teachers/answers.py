"""What the teachers of a run answer to the items of a split, kept in its folder.

A worker asks with its own engine, before it scores the first candidate on the split: so report items are asked for when
a report is made, and never before. The file is named by all that the answers depend on, which the identity of a run
covers; a run that goes on, in whatever folder, reads it. Where it is not at hand or damaged, teachers are asked again.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossbreed.durable import write_atomically
from crossbreed.errors import InputError, InvalidWeights
from crossbreed.fitness import AnyItems, Handle, Task, TeacherAnswer, TeacherAnswers, TeacherTask, ask_teacher
from crossbreed.runs.plan import Plan
from crossbreed.runs.teachers.checks import teacher_recipe, teacher_tasks
from crossbreed.types import BASE, Recipe, SplitName, canonical_json, content_id

PREFIX = "teachers-"
"""Of the files' names."""
_SCHEMA = 1
"""The version of a file. Increment it with every change of what is asked or kept."""


class Teachers:
    """The teachers of a run, as one worker knows them."""

    def __init__(self, plan: Plan, kept: Path | None) -> None:
        """Asks nothing yet.

        Args:
            plan: The run's plan.
            kept: The folder of the run's artifacts, which may be on another machine.
        """
        self._plan, self._tasks = plan, [task for task, _ in teacher_tasks(plan.tasks)]
        self._folder = kept if kept is not None and kept.parent.is_dir() else None
        self._known: dict[SplitName, TeacherAnswers] = {}

    def answers(self, split: SplitName, adopt: Callable[[Recipe], Handle]) -> TeacherAnswers:
        """Returns what the teachers answer to a split, from the run's folder or asked for now.

        Args:
            split: The split.
            adopt: Has the engine adopt a recipe.

        Raises:
            InputError: a teacher's log-probabilities are NaN.
            EngineError: the engine could not answer.
        """
        if split not in self._known:
            items = self._plan.items[split]
            paths = {task.name: self._path(task, items[task.name]) for task in self._tasks}
            found = dict[str, Mapping[str, TeacherAnswer]]()
            for name, path in paths.items():
                if path and (held := _read(path)) is not None:
                    found[name] = held
            missing = [task for task in self._tasks if task.name not in found]
            for name, answers in ask_teachers(missing, items, self._recipe, adopt).items():
                found[name] = answers
                if (path := paths[name]) is None:
                    continue
                if (held := _read(path)) is None:
                    _write(path, answers)
                else:
                    found[name] = held  # another worker has asked meanwhile
            self._known[split] = found
        return self._known[split]

    def _recipe(self, teacher: str) -> Recipe:
        return teacher_recipe(teacher, self._plan.structure.hashes, dtype=self._plan.dtype)

    def _path(self, task: Task, items: AnyItems) -> Path | None:
        if self._folder is None:
            return None
        plan, kind, hashes = self._plan, _kind_of(task), self._plan.structure.hashes
        rule = {
            "schema": _SCHEMA,
            "task": kind.identity(),
            "sources": {name: hashes[name] for name in {BASE, kind.teacher}},
            "host": plan.weights.host_hashes if plan.weights else {},
            "dtype": plan.dtype,
            "engine": plan.spec.fitness.engine.identity(),
            "items": [item.id for item in items.items],
            "contents": replace(task, items=items.items).contents_id,
        }
        return self._folder / f"{PREFIX}{content_id(canonical_json(rule))}.json.gz"


def ask_teachers(
    tasks: Sequence[Task],
    items: Mapping[str, AnyItems],
    recipe_of: Callable[[str], Recipe],
    adopt: Callable[[Recipe], Handle],
) -> dict[str, Mapping[str, TeacherAnswer]]:
    """Has the teachers of tasks answer some items, each teacher adopted once.

    Args:
        tasks: Tasks; those without a teacher are passed over.
        items: Task -> items.
        recipe_of: Teacher -> its recipe.
        adopt: Has the engine adopt a recipe.

    Returns:
        Task -> item id -> answer.

    Raises:
        InputError: a teacher's log-probabilities are NaN.
        EngineError: the engine could not answer.
    """
    found: dict[str, Mapping[str, TeacherAnswer]] = {}
    for teacher in dict.fromkeys(kind.teacher for _, kind in teacher_tasks(tasks)):
        try:
            handle = adopt(recipe_of(teacher))
            for task, kind in teacher_tasks(tasks):
                if kind.teacher == teacher:
                    found[task.name] = ask_teacher(handle, task, items[task.name])
        except InvalidWeights as error:
            raise InputError(
                f"the teacher `{teacher}` predicts nothing: {error}",
                expected="log-probabilities that are numbers",
                where="fitness.tasks",
                fix="name another teacher, or compute in another `fitness.engine.dtype`",
            ) from error
    return {task.name: found[task.name] for task, _ in teacher_tasks(tasks)}


def _kind_of(task: Task) -> TeacherTask:
    [(_, kind)] = teacher_tasks([task])
    return kind


def _write(path: Path, answers: Mapping[str, TeacherAnswer]) -> None:
    """Writes answers with a checksum of them; the same bytes for the same answers."""
    text = json.dumps(
        {
            item: {"token_ids": one.token_ids, "places": [[*place.items()] for place in one.places]}
            for item, one in answers.items()
        }
    )
    whole = json.dumps({"schema": _SCHEMA, "content": content_id(text), "answers": text})
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, gzip.compress(whole.encode(), mtime=0))


def _read(path: Path) -> dict[str, TeacherAnswer] | None:
    """Returns the answers of a file; None if it is not there, or damaged."""
    try:
        whole: Any = json.loads(gzip.decompress(path.read_bytes()))
        if content_id(whole["answers"]) != whole["content"]:
            return None
        return {item: _parsed(one) for item, one in json.loads(whole["answers"]).items()}
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, zlib.error):
        return None


def _parsed(one: Any) -> TeacherAnswer:  # JSON
    places = tuple({int(token): float(logprob) for token, logprob in place} for place in one["places"])
    return TeacherAnswer(token_ids=tuple(map(int, one["token_ids"])), places=places)
