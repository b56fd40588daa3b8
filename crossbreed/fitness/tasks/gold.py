"""The answer of a model that knows: what a task makes of its own gold answers."""

from crossbreed.errors import InputError
from crossbreed.fitness.items import Item
from crossbreed.fitness.requests import Generate, Loglikelihood, Request, Response
from crossbreed.fitness.tasks.questions import judge_calls
from crossbreed.fitness.tasks.task import Answer, Task

_CERTAIN, _HOPELESS = 0.0, -50.0
"""Log-probabilities of a token that is expected, and of another one."""


def gold_answer(task: Task, item: Item, *, cut: str | None = None) -> Answer | None:
    """Returns the result for a model that writes exactly the gold answer, or is certain of it.

    None if there is no gold, or a judge would have to be asked.

    Args:
        task: The task.
        item: One of its items.
        cut: What `max_tokens` leaves of the answer, if it does not fit.
    """
    gold = task.kind.shown(item)
    if gold == "" or judge_calls(task):
        return None
    requests = task.requests(item)
    right = right_request(task, item) if any(isinstance(r, Loglikelihood) for r in requests) else None
    if right is None and not all(isinstance(request, Generate) for request in requests):
        return None
    return task.score(item, [_response(request, gold if cut is None else cut, right) for request in requests])


def right_request(task: Task, item: Item) -> Loglikelihood | None:
    """Returns the request whose continuation is the right answer; None if the kind of task has none."""
    try:
        return task.calibration(item)
    except InputError:
        return None


def _response(request: Request, gold: str, right: Loglikelihood | None) -> Response:
    if isinstance(request, Generate):
        ends = [at for stop in request.stop if (at := gold.find(stop)) >= 0]
        text = gold[: min(ends, default=len(gold))]
        return _said(text, request.prompt.text, _CERTAIN, text=text)
    return _said(request.continuation, request.prompt.text, _CERTAIN if request == right else _HOPELESS)


def _said(answer: str, prompt: str, logprob: float, *, text: str = "") -> Response:
    """Returns a response with one token for each byte."""
    ids = tuple(answer.encode())
    return Response(text=text, token_ids=ids, logprobs=(logprob,) * len(ids), prompt_tokens=len(prompt.encode()))
