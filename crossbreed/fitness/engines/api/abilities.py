"""What a service can really do, tried out at the start: what it cannot is said, and not relied on."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from crossbreed.fitness import wire
from crossbreed.fitness.requests import Generate, Prompt, Request, Response

Ask: TypeAlias = Callable[[Sequence[Request]], list[Response]]
_TEXTS = ("The capital of France is", "Question: what is two and three?\nAnswer:")


def probe(abilities: wire.Abilities, ask: Ask) -> Iterator[str]:
    """Asks the base the same chunk twice, and its prompts alone; yields a note on each thing that cannot be relied on.

    Args:
        abilities: What the service says of itself.
        ask: Asks the base.
    """
    if "logprobs" not in abilities.rights:
        yield "the service gives no log-probabilities: tasks and checks that need them are off"
    if "answers" not in abilities.rights:
        yield "the service gives no texts: whether it answers with the weights of a recipe cannot be seen, only trusted"
        return
    has_logprobs = "logprobs" in abilities.rights
    chunk = [Generate(prompt=Prompt(text=text), max_tokens=4, scores_prompt=has_logprobs) for text in _TEXTS]
    first = ask(chunk)
    if (gap := _gap(first, ask(chunk))) > 0:
        yield (
            f"the service answers the same chunk differently each time{_by(gap)}: scores are noisy, and a run that is "
            "repeated differs"
        )
    elif (gap := _gap(first, [response for one in chunk for response in ask([one])])) > 0:
        yield (
            f"answers depend on the other prompts of a chunk{_by(gap)}: scores are comparable at equal `chunk` alone"
        )
    if abilities.chunk < 64:
        yield f"the service takes {abilities.chunk} prompts at a time: larger chunks are asked in parts"


def _gap(some: Sequence[Response], others: Sequence[Response]) -> float:
    """Returns the largest difference of log-probabilities; infinite where texts differ."""
    gap = 0.0
    for one, other in zip(some, others, strict=True):
        if (one.text, one.token_ids) != (other.text, other.token_ids):
            return math.inf
        logprobs = zip(_all_logprobs(one), _all_logprobs(other), strict=True)
        gap = max([gap, *(abs(p - q) for p, q in logprobs)])
    return gap


def _all_logprobs(response: Response) -> tuple[float, ...]:
    return (*response.logprobs, *(response.prompt.logprobs if response.prompt else ()))


def _by(gap: float) -> str:
    return ", in other words" if math.isinf(gap) else f", by up to {gap:.2g} nats a token"
