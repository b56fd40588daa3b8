"""Evaluates a candidate on items and keeps every answer: one value per item, in the order of the split."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import SupportsFloat, TypeAlias

from crossbreed.errors import EngineError
from crossbreed.figures import Figure
from crossbreed.fitness.answers import LARGEST, likely_answers_of
from crossbreed.fitness.items import AnyItems, Item, ReportItems
from crossbreed.fitness.protocol import Handle, ScoresItems, ScoresSplits
from crossbreed.fitness.requests import Response
from crossbreed.fitness.tasks import Answer, Task, TaskConfig, own_kind, own_split
from crossbreed.fitness.tasks.remote import RemoteTask
from crossbreed.fitness.tasks.task import AsksItself, HasFigures, ScoresChunks
from crossbreed.fitness.tasks.teacher import TeacherAnswer, TeacherTask
from crossbreed.fitness.values import is_unicode
from crossbreed.types import ItemScores, Means


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The results of evaluating one candidate, from which a Score is built."""

    tasks: Mapping[str, ItemScores]
    texts: Mapping[str, tuple[str, ...]]
    """The generated texts (or chosen options), in item order."""
    margins: Mapping[str, tuple[float | None, ...]]
    """How far each answer is from a tie, in item order; only of tasks that know it."""
    thinking: Mapping[str, tuple[int | None, ...]]
    """Tokens that were cut from each answer as thinking; only of tasks that cut some."""
    num_items: int
    num_tokens: int
    """Prompt and completion tokens."""


TeacherAnswers: TypeAlias = Mapping[str, Mapping[str, TeacherAnswer]]
"""Task -> item id -> what the task's teacher answered."""


def evaluate_tasks(
    handle: Handle,
    tasks: Sequence[Task],
    items: Mapping[str, AnyItems],
    teacher_answers: TeacherAnswers = MappingProxyType({}),
    *,
    lengths: Mapping[str, str] = MappingProxyType({}),
) -> Evaluation:
    """Evaluates a candidate on every task, in fixed chunks and in the order of the split.

    Args:
        handle: the candidate.
        tasks: the tasks, in the Spec's order.
        items: task name -> its items of one split.
        teacher_answers: for tasks that have a teacher, what it answered to these items: see `ask_teacher`.
        lengths: task name -> the name under which the length of its answers is measured; of other tasks it is not.

    Raises:
        EngineError: the engine could not answer, or its answers are not what the protocol says.
        InvalidWeights: a log-probability is NaN or infinite: so were the logits.
        ValueError: a task's value is no finite number that can be averaged, or its text no text: a bug of the task.
    """
    scores: dict[str, ItemScores] = {}
    texts: dict[str, tuple[str, ...]] = {}
    margins: dict[str, tuple[float | None, ...]] = {}
    thinking: dict[str, tuple[int | None, ...]] = {}
    num_tokens = 0
    for task in tasks:
        offered = items[task.name].items
        if own_split(task) is not None:
            scores[task.name], texts[task.name] = _means(handle, task, offered), ("",) * len(offered)
            continue
        values, answers, distances = list[float](), list[str](), list[float | None]()
        thoughts, tokens = list[int | None](), list[float]()
        abstained, agreed = dict[int, str](), list[bool]()
        entries = dict[str, Mapping[str, object]]()
        for start in range(0, len(offered), task.kind.chunk):
            chunk = offered[start : start + task.kind.chunk]
            for item, answer, responses in _answered(handle, task, chunk, teacher_answers.get(task.name, {})):
                if answer.abstains:
                    abstained[len(values)] = answer.abstains
                values.append(math.nan if answer.abstains else _finite(answer.value, task=task.name, item=item.id))
                agreed += [] if answer.agrees is None else [answer.agrees]
                entries[item.id] = answer.entries
                answers.append(_text(answer.text, task=task.name, item=item.id))
                distances.append(answer.margin)
                thoughts.append(answer.thinking)
                tokens += [] if answer.length is None else [answer.length]
                num_tokens += sum(r.prompt_tokens + len(r.token_ids) for r in responses)
        scores[task.name] = ItemScores(
            item_ids=tuple(item.id for item in offered),
            values=_without_abstentions(task, offered, values, abstained),
            abstained=tuple(abstained),
            agreement=sum(agreed) / len(agreed) if agreed else None,
            figures=_figures(task, items[task.name], entries),
        )
        if task.name in lengths:
            if len(tokens) < len(values):
                raise ValueError(f"task `{task.name}` does not tell how long its answers are")
            scores[lengths[task.name]] = ItemScores(item_ids=scores[task.name].item_ids, values=tuple(tokens))
        texts[task.name] = tuple(answers)
        if any(margin is not None for margin in distances):
            margins[task.name] = tuple(distances)
        if any(length is not None for length in thoughts):
            thinking[task.name] = tuple(thoughts)
    num_items = sum(scores[task.name].num_items for task in tasks)
    return Evaluation(
        tasks=scores, texts=texts, margins=margins, thinking=thinking, num_items=num_items, num_tokens=num_tokens
    )


def ask_teacher(handle: Handle, task: Task, items: AnyItems) -> dict[str, TeacherAnswer]:
    """Has the teacher of a task answer items, in the chunks in which candidates will be compared with it.

    Args:
        handle: the teacher.
        task: the task, of a kind that has one.
        items: its items of one split.

    Returns:
        Item id -> answer.

    Raises:
        EngineError: the engine could not answer.
        InvalidWeights: its log-probabilities are NaN or infinite.
    """
    kind, found = own_kind(task), dict[str, TeacherAnswer]()
    assert isinstance(kind, TeacherTask), "the task has a teacher"
    for start in range(0, len(items.items), task.kind.chunk):
        chunk = items.items[start : start + task.kind.chunk]
        found |= zip((item.id for item in chunk), kind.teacher_answers(handle, chunk), strict=True)
    return found


def _means(handle: Handle, task: Task, items: Sequence[Item]) -> ItemScores:
    """Returns the means of a task whose engine tells nothing else, one for each split that the items stand for."""
    if not isinstance(handle, ScoresSplits):
        raise EngineError(f"task `{task.name}` is remote, and the engine scores no splits of tasks")
    found = [handle.score_split(task.name, item.id, count=item.count) for item in items]
    return ItemScores(
        item_ids=tuple(item.id for item in items),
        values=tuple(_finite(one.mean, task=task.name, item=item.id) for one, item in zip(found, items, strict=True)),
        means=Means(counts=tuple(item.count for item in items), errors=tuple(one.standard_error for one in found)),
    )


def _without_abstentions(
    task: Task, items: Sequence[Item], values: Sequence[float], abstained: Mapping[int, str]
) -> tuple[float, ...]:
    """Returns the values, with the mean of the others for items without a verdict: it moves no mean.

    Raises:
        EngineError: there are too many of them.
    """
    if not abstained:
        return tuple(values)
    kind, place = own_kind(task), min(abstained)
    most = kind.most_abstentions if isinstance(kind, TaskConfig) else 0.0
    if len(abstained) > most * len(values) or len(abstained) == len(values):
        raise EngineError(
            f"task `{task.name}`: no verdict on {len(abstained)} of {len(values)} answers, where `most_abstentions` is "
            f"{most:g}; item `{items[place].id}`: {abstained[place]}"
        )
    mean = math.fsum(value for i, value in enumerate(values) if i not in abstained) / (len(values) - len(abstained))
    return tuple(mean if i in abstained else value for i, value in enumerate(values))


def _figures(task: Task, items: AnyItems, entries: Mapping[str, Mapping[str, object]]) -> Mapping[str, Figure]:
    """Returns what only all items together have: of report items, since nothing is searched or selected by it."""
    kind = own_kind(task)
    return kind.figures(entries) if isinstance(items, ReportItems) and isinstance(kind, HasFigures) else {}


def _finite(value: object, *, task: str, item: str) -> float:
    """Returns a task's value as a float, whatever type of number it is."""
    try:
        number = float(value) if isinstance(value, SupportsFloat) else math.nan
    except (TypeError, ValueError, RuntimeError, OverflowError):  # an array of several, for example
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"task `{task}`, item `{item}`: the value is not a finite number: {value!r}"[:300])
    if abs(number) > LARGEST:
        raise ValueError(
            f"task `{task}`, item `{item}`: the value {number!r} is too large to average with others: expected at most "
            f"{LARGEST:g}, and at least -{LARGEST:g}"
        )
    return number


def _text(text: object, *, task: str, item: str) -> str:
    """Returns the text of a task's answer, which the run folder keeps as UTF-8."""
    if not isinstance(text, str) or not is_unicode(text):
        raise ValueError(f"task `{task}`, item `{item}`: the answer's text is not a Unicode text: {text!r}"[:300])
    return text


def _answered(
    handle: Handle, task: Task, chunk: Sequence[Item], teacher_answers: Mapping[str, TeacherAnswer]
) -> Iterator[tuple[Item, Answer, Sequence[Response]]]:
    """Yields the items of a chunk, each scored, with the responses to it.

    A remote task's engine scores itself. A function that asks for itself got its responses for the whole chunk: they
    come with the first item.
    """
    kind = own_kind(task)
    if isinstance(kind, RemoteTask):
        if not isinstance(handle, ScoresItems):
            raise EngineError(f"task `{task.name}` is remote, and the engine scores no tasks")
        values = handle.score_items(task.name, [item.id for item in chunk])
        for item, value in zip(chunk, values, strict=True):
            yield item, Answer(value=value, text=""), ()
        return
    if isinstance(kind, TeacherTask):
        compared, got = kind.compare(handle, chunk, [teacher_answers[item.id] for item in chunk])
        yield from zip(chunk, compared, ([one] for one in got), strict=True)
        return
    if isinstance(kind, AsksItself) and not kind.asks:
        answers, got = kind.evaluate(handle, chunk)
        yield from zip(chunk, answers, (got, *[()] * (len(chunk) - 1)), strict=True)
        return
    asked = _ask(handle, task, chunk)
    if isinstance(kind, ScoresChunks):
        yield from zip(chunk, kind.score_chunk(chunk, asked), asked, strict=True)
        return
    for item, responses in zip(chunk, asked, strict=True):
        yield item, task.score(item, responses), responses


def _ask(handle: Handle, task: Task, chunk: Sequence[Item]) -> list[list[Response]]:
    """Returns each item's responses; all requests of the chunk share one call."""
    requests = [list(task.requests(item)) for item in chunk]
    asked = [request for of_item in requests for request in of_item]
    flat = likely_answers_of(handle, asked, asker=f"task `{task.name}`")
    responses = iter(flat)
    return [[next(responses) for _ in of_item] for of_item in requests]
