"""Answers of trials as rows that a person reads: question, right answer, the model's answer, its value."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from crossbreed.errors import InputError, printable
from crossbreed.fitness import Item, Loglikelihood, PromptTaskConfig, Task, TaskConfig
from crossbreed.fitness.tasks import own_kind
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import History
from crossbreed.runs.record.records import RunRecord, SplitName
from crossbreed.runs.results.header import read_tasks
from crossbreed.runs.spec.objectives import LENGTH
from crossbreed.types import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownQuestion:
    """What an item asks."""

    question: str
    """Without examples and system message."""
    gold: str
    """All right answers, with ` | ` between them. Empty if the task has none to show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRow:
    """The answers of one or more trials to one item."""

    task: str
    item_id: str
    asked: ShownQuestion | None
    """None where the item is not at hand."""
    answers: tuple[str | None, ...]
    """One a trial; None where no text was kept."""
    values: tuple[float, ...]
    less_is_better: bool

    @property
    def is_right(self) -> tuple[bool | None, ...]:
        """Whether each answer is right; None where the value is a degree."""
        judged = {} if self.less_is_better else {0.0: False, 1.0: True}
        return tuple(judged.get(value) for value in self.values)

    def to_json(self) -> dict[str, Any]:
        """Returns the row as the page takes it."""
        return {
            "task": self.task,
            "id": self.item_id,
            "question": self.asked and self.asked.question,
            "gold": self.asked and self.asked.gold,
            "answers": list(self.answers),
            "values": list(self.values),
            "right": list(self.is_right),
        }


class Questions:
    """What the items of a run ask."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        """Nothing is rendered before it is asked for."""
        self._tasks = {task.name: (task, {item.id: item for item in task.items}) for task in tasks}

    @property
    def tasks(self) -> frozenset[str]:
        """The names of those whose items are at hand."""
        return frozenset(self._tasks)

    def find(self, task: str, item_id: str) -> ShownQuestion | None:
        """Returns what an item asks; None where it is not at hand."""
        loaded, items = self._tasks.get(task, (None, {}))
        if loaded is None or item_id not in items:
            return None
        with suppress(InputError):
            return _asked(loaded, items[item_id])
        return None


def questions_in(folder: RunFolder, begun: RunRecord | None) -> Questions:
    """Returns what the items of a run ask, as far as its files are where they were, and unchanged.

    Args:
        folder: The run folder.
        begun: The first record of its journal, which has the hashes of the items.
    """
    contents, tasks = begun.contents if begun else {}, list[Task]()
    seed = begun.spec.get("seed") if begun else None
    for config in read_tasks(folder):
        with suppress(InputError, OSError):
            kind = config.with_seed(seed if isinstance(seed, int) else 0)
            task = Task(kind=kind, items=kind.load_items())
            if contents.get(task.name, task.contents_id) == task.contents_id:
                tasks.append(task)
    return Questions(tasks)


def answer_rows(
    folder: RunFolder,
    history: History,
    minimized: Mapping[str, bool],
    *,
    split: SplitName,
    numbers: Sequence[int],
    questions: Questions,
) -> list[AnswerRow]:
    """Returns a row for each item of a split that all of some trials have answered, task by task.

    A task of which only means are told has none.

    Args:
        folder: The run folder, for the texts.
        history: The run's scores.
        minimized: Task -> whether less of its metric is better.
        split: The items.
        numbers: The trials.
        questions: What the items ask.

    Raises:
        InputError: a file of answers is damaged.
    """
    scores = [history.scores.get((split, number)) for number in numbers]
    if not scores or any(score is None or score.status is not Status.OK for score in scores):
        return []
    texts = [folder.answers(split, number) for number in numbers]
    return [
        AnswerRow(
            task=task,
            item_id=item_id,
            asked=questions.find(task, item_id),
            answers=tuple(said.get(task, {}).get(item_id) for said in texts),
            values=tuple(score.tasks[task].values[i] for score in scores if score),
            less_is_better=minimized.get(task, False),
        )
        for task, ids in history.item_ids.get(split, {}).items()
        if not task.startswith(LENGTH)
        if all(score and task in score.tasks and score.tasks[task].means is None for score in scores)
        for i, item_id in enumerate(ids)
    ]


def rows_text(rows: Sequence[AnswerRow], *, only_wrong: bool) -> Iterator[str]:
    """Yields the lines of one trial's rows on a terminal: a count for each task, then its items.

    Args:
        rows: Of one trial and split.
        only_wrong: Leave out what is right.
    """
    for task in dict.fromkeys(row.task for row in rows):
        mine = [row for row in rows if row.task == task]
        right = [row.is_right[0] for row in mine]
        if None in right:
            yield f"{task}: {len(mine)} items, mean {sum(row.values[0] for row in mine) / len(mine):.4f}"
        else:
            yield f"{task}: {sum(map(bool, right))} of {len(mine)} right"
        for row in mine:
            if not (only_wrong and row.is_right[0]):
                yield from _lines(row)


def _lines(row: AnswerRow) -> Iterator[str]:
    judged = {True: "right", False: "wrong", None: f"{row.values[0]:.4g}"}[row.is_right[0]]
    yield f"  {judged}  {printable(row.item_id)}"
    said = {"answer": row.answers[0]}
    shown = {"question": row.asked.question, "gold": row.asked.gold} if row.asked else {}
    for label, text in {**shown, **said}.items():
        if text is not None:
            first, *more = map(printable, text.strip("\n").split("\n"))
            yield f"    {label:<9} {first}".rstrip()
            yield from (f"{'':14}{line}".rstrip() for line in more)


def _asked(task: Task, item: Item) -> ShownQuestion:
    kind = own_kind(task)
    if isinstance(kind, PromptTaskConfig):
        return ShownQuestion(question=kind.question(item), gold=_golds(task, item))
    first = next(iter(task.requests(item)), None)
    if first is None:
        return ShownQuestion(question="", gold=_golds(task, item))
    turns = [text for _, text in first.prompt.turns] + [first.prompt.text]
    shown = "\n".join(filter(None, turns)) or (first.continuation if isinstance(first, Loglikelihood) else "")
    return ShownQuestion(question=shown, gold=_golds(task, item))


def _golds(task: Task, item: Item) -> str:
    kind = own_kind(task)
    texts = kind.right_texts(item) if isinstance(kind, TaskConfig) else ()
    return " | ".join(dict.fromkeys(texts)) or task.kind.shown(item)
