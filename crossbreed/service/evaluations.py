"""`POST /v1/evaluations`: the provider's own tasks, asked and scored here; their items never leave."""

import math
from math import fsum
from statistics import stdev

from crossbreed.fitness import Task, evaluate_tasks, wire
from crossbreed.fitness.items import Item, SearchItems
from crossbreed.runs.workers.adopted import Adopted
from crossbreed.service.accounts import Account
from crossbreed.service.core import Service
from crossbreed.service.refusals import Refusal, bad_request
from crossbreed.types import Recipe


def served_tasks(service: Service) -> tuple[wire.ServedTask, ...]:
    """Returns the tasks, as clients with the right `scores` are told."""
    provider = service.provider
    return tuple(
        wire.ServedTask(
            name=name,
            higher_is_better=task.higher_is_better,
            items=tuple(item.id for item in provider.items[name]) if service.config.detail == "items" else None,
            count=len(provider.items[name]),
            splits={split: len(items) for split, items in provider.splits[name].items()} if provider.splits else None,
        )
        for name, task in provider.tasks.items()
    )


async def evaluate(service: Service, account: Account, question: wire.EvaluationQuestion) -> wire.Evaluation:
    """Scores a model on one task, chunk by chunk; raises Refusal."""
    account.require("scores")
    model = service.merges.find(question.model, owner=account.name)
    task = service.provider.tasks.get(question.task)
    if task is None:
        known = ", ".join(service.provider.tasks) or "none"
        raise Refusal(404, f"there is no task of this name; there are: {known}", code="task_not_found", param="task")
    items, values = _items(service, task, question), list[float]()
    fingerprint = model.fingerprint
    with account.spending(1) as spent:  # how many it takes is known when it is done
        for start in range(0, len(items), task.kind.chunk):
            chunk = items[start : start + task.kind.chunk]
            found, tokens, fingerprint = await _scored(service, account, model.recipe, task, chunk)
            values += found
            spent.tokens += tokens
            service.metrics.count_tokens(prompt=tokens, completion=0)
    return wire.Evaluation(
        model=question.model,
        task=question.task,
        fingerprint=fingerprint or "",
        values=tuple(values) if service.config.detail == "items" else None,
        mean=fsum(values) / len(values),
        count=len(values),
        split=question.split,
        standard_error=stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
        content=service.provider.contents[question.task],
    )


def _items(service: Service, task: Task, question: wire.EvaluationQuestion) -> tuple[Item, ...]:
    offered, ids = service.provider.items[task.name], question.items
    if question.split is not None:
        if ids is not None:
            raise bad_request("either `items` or `split`, not both", param="split")
        if not service.provider.splits:
            raise bad_request("this service splits no items: leave out `split`", param="split")
        return service.provider.splits[task.name][question.split]
    if ids is None:
        return offered
    if service.config.detail != "items":
        told = "means of splits" if service.provider.splits else "the mean of all items"
        raise bad_request(f"this service tells {told} alone: leave out `items`", param="items")
    by_id = {item.id: item for item in offered}
    if not ids or len(set(ids)) < len(ids) or (strays := [one for one in ids if one not in by_id]):
        what = f"no item {strays[0]!r:.100}" if ids and len(set(ids)) == len(ids) else "ids, each once, are needed"
        raise bad_request(f"`items` of task `{task.name}`: {what}", param="items")
    return tuple(by_id[one] for one in ids)


async def _scored(
    service: Service, account: Account, recipe: Recipe, task: Task, chunk: tuple[Item, ...]
) -> tuple[tuple[float, ...], int, str | None]:
    """Returns the values of a chunk, its tokens, and the merge's fingerprint."""

    def work(adopted: Adopted) -> tuple[tuple[float, ...], int, str | None]:
        found = evaluate_tasks(adopted.handle, [task], {task.name: SearchItems(chunk)})
        return found.tasks[task.name].values, found.num_tokens, adopted.fingerprint

    return await service.ask(recipe, work, account)
