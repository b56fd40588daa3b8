"""Which experts teach a task, where nobody says so: those that make its right answers likelier than the base does.

An expert that knows nothing of a task would pull the merge towards its own errors there, and one that knows of no task
would shift the anchor, too. What counts is the gain in nats a token over the base, on the items that are read anyway.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import fsum, isfinite
from statistics import fmean

from crossbreed.fitness import Loglikelihood, Response
from crossbreed.runs.regression.texts import Asked
from crossbreed.types import BASE

SHARE = 0.5
"""Of the best expert's gain at a task, from which on an expert teaches it."""
_WORST = 1e9
"""Nats a token of a model that computes NaN or Inf."""
Answering = Callable[[str, Sequence[Loglikelihood]], list[Response]]
"""A model (the base or an expert, by name) and texts -> their log-probabilities."""


def taught(asked: Mapping[str, Asked], answer: Answering) -> dict[str, Asked]:
    """Returns what each expert is asked for, of the tasks that it teaches; experts that teach none are left out.

    Tasks that were given to an expert stay its own. Where no expert gains at a task, all that were asked for it are.

    Args:
        asked: Expert -> what it would be asked for.
        answer: Computes log-probabilities of right answers.
    """
    if all(one.is_given or not one.golds for one in asked.values()):
        return dict(asked)
    requests = {golds.task: golds.requests for one in asked.values() for golds in one.golds if golds.requests}
    loss = {name: dict(_losses(name, requests, answer)) for name in (BASE, *asked)}
    gain = {name: {task: loss[BASE][task] - loss[name][task] for task in requests} for name in asked}
    best = {
        task: max(gain[name][task] for name, one in asked.items() if any(golds.task == task for golds in one.golds))
        for task in requests
    }
    found = dict[str, Asked]()
    for name, one in asked.items():
        kept = one.golds
        if not one.is_given:
            kept = tuple(
                golds
                for golds in one.golds
                if not golds.requests or best[golds.task] <= 0 or gain[name][golds.task] >= SHARE * best[golds.task]
            )
        if kept or one.samples is not None:
            found[name] = replace(one, golds=kept)
    return found


def _losses(
    name: str, requests: Mapping[str, Sequence[Loglikelihood]], answer: Answering
) -> Iterator[tuple[str, float]]:
    """Yields each task with a model's mean nats a token of its right answers."""
    responses = iter(answer(name, [request for several in requests.values() for request in several]))
    for task, several in requests.items():
        nats = fmean(-fsum(r.logprobs) / max(1, len(r.logprobs)) for r in islice(responses, len(several)))
        yield task, nats if isfinite(nats) else _WORST
