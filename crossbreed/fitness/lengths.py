"""The lengths of a task's items in tokens of the base's tokenizer, as counted before a run."""

from collections.abc import Mapping
from dataclasses import dataclass


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
