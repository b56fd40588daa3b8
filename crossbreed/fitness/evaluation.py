"""Asks a candidate its items and keeps every answer: one value per item, in the order of the split."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crossbreed.errors import EngineError, InvalidWeights
from crossbreed.fitness.items import AnyItems, Item
from crossbreed.fitness.protocol import Handle, Response
from crossbreed.fitness.tasks import Task
from crossbreed.types import ItemScores


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All that was answered: what a Score is made of."""

    tasks: Mapping[str, ItemScores]
    texts: Mapping[str, tuple[str, ...]]
    """What the model said, in item order."""
    num_items: int
    num_tokens: int
    """Prompt and completion tokens."""


def evaluate(handle: Handle, tasks: Sequence[Task], items: Mapping[str, AnyItems]) -> Evaluation:
    """Asks every task its items, in fixed chunks and in the order of the split.

    Args:
        handle: the candidate.
        tasks: what to ask, in the Spec's order.
        items: task name -> its items of one split.

    Raises:
        EngineError: the engine could not answer.
        InvalidWeights: a log-probability is NaN or infinite: so were the logits.
    """
    scores: dict[str, ItemScores] = {}
    texts: dict[str, tuple[str, ...]] = {}
    num_tokens = 0
    for task in tasks:
        offered = items[task.name].items
        answers = []
        for start in range(0, len(offered), task.kind.chunk):
            chunk = offered[start : start + task.kind.chunk]
            for item, responses in zip(chunk, _ask(handle, task, chunk), strict=True):
                answers.append(task.score(item, responses))
                num_tokens += sum(r.prompt_tokens + len(r.token_ids) for r in responses)
        scores[task.name] = ItemScores(
            item_ids=tuple(item.id for item in offered), values=tuple(answer.value for answer in answers)
        )
        texts[task.name] = tuple(answer.text for answer in answers)
    num_items = sum(len(found.values) for found in scores.values())
    return Evaluation(tasks=scores, texts=texts, num_items=num_items, num_tokens=num_tokens)


def _ask(handle: Handle, task: Task, chunk: Sequence[Item]) -> list[list[Response]]:
    """Returns each item's responses; all requests of the chunk share one call."""
    requests = [task.requests(item) for item in chunk]
    flat = handle.answer([request for of_item in requests for request in of_item])
    if len(flat) != sum(map(len, requests)):
        raise EngineError(f"task `{task.name}`: {len(flat)} responses to {sum(map(len, requests))} requests")
    if not all(math.isfinite(logprob) for response in flat for logprob in response.logprobs):
        raise InvalidWeights(f"task `{task.name}`: a log-probability is NaN or infinite")
    responses = iter(flat)
    return [[next(responses) for _ in of_item] for of_item in requests]
