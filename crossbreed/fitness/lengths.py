"""Lengths in tokens: of a task's items, as counted before a run, and of answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from crossbreed.fitness.requests import Response


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLengths:
    """What the tokenizer of the base makes of all items of a task. All of them fit into the context."""

    context: int
    """Maximum number of tokens of prompt plus answer."""
    max_tokens: int | None
    """Maximum number of generated tokens; None for tasks that generate nothing."""
    prompts: tuple[int, ...]
    """Tokens of each item's longest prompt, with the template and the examples."""
    golds: tuple[int, ...]
    """Tokens of each item's shortest right answer; empty if the kind of task names none."""
    totals: Mapping[str, int]
    """Item id -> tokens of all its requests, answered as briefly as is right."""
    cut_golds: Mapping[str, str]
    """Item id -> what `max_tokens` leaves of a right answer that does not fit."""


def tokens_within(text: str, token_ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> int:
    """Returns how many tokens lie in the text that they begin with: the one in which its stop begins does not.

    >>> tokens_within("4.", [52, 46, 10], lambda ids: bytes(ids).decode())
    2
    """
    number = len(token_ids)
    while number and len(decode(token_ids[:number])) > len(text):
        number -= 1
    return number


def answer_length(response: Response, *, max_tokens: int, thinking: int = 0) -> int:
    """Returns the tokens of an answer without its stop, its end and what was thought; `max_tokens` if it was cut there.

    An engine that does not tell which tokens are the text's is taken to have ended it with one.
    """
    if response.ended == "length":
        return max_tokens
    told = response.text_tokens
    return max(0, (len(response.token_ids) - 1 if told is None else told) - thinking)
