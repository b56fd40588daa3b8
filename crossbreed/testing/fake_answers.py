"""The common part of the fake engines: answers from a quality in [0, 1], and configured failures.

Prompts follow a convention: `SKILL|anything|GOLD`. The text before the first `|` names a skill; the text after
the last is the right answer. A candidate answers a share of all prompts rightly that equals its quality at the skill;
a hash of the prompt decides which. Whatever is right at one quality is right at every higher one.
"""

import os
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Literal, TypeAlias

from crossbreed.errors import EngineError
from crossbreed.fitness.requests import Generate, Request, Response

Failure: TypeAlias = Literal["start", "answer", "exit"]
WRONG = "?"
"""The answer where the right one is not known."""


def respond(request: Request, quality: Callable[[str], float]) -> Response:
    """Returns the response to a request.

    Args:
        request: With a prompt of the convention above.
        quality: Skill -> the candidate's quality at it.
    """
    prompt = request.prompt.text
    knows = luck_of(prompt) < quality(skill_of(prompt))
    said = (gold_of(prompt) if knows else WRONG) if isinstance(request, Generate) else request.continuation
    is_expected = not prompt or (said.strip() == gold_of(prompt)) == knows
    text = _cut(said, request) if isinstance(request, Generate) else ""
    tokens = tuple((text or said).encode())
    return Response(
        text=text,
        token_ids=tokens,
        logprobs=(quality(skill_of(prompt or said)) - (2.0 if is_expected else 4.0),) * len(tokens),
        prompt_tokens=len(prompt.encode()),
        ended="length" if isinstance(request, Generate) and _is_cut(said, request) else "stop",
        text_tokens=len(tokens) if isinstance(request, Generate) else None,
    )


def _cut(text: str, request: Generate) -> str:
    """Returns the text up to the first stop, at most `max_tokens` bytes."""
    end = min((end for stop in request.stop if (end := text.find(stop)) >= 0), default=len(text))
    return text[:end].encode()[: request.max_tokens].decode(errors="ignore")


def _is_cut(text: str, request: Generate) -> bool:
    """Returns whether a text ends at `max_tokens` bytes, before any stop."""
    return not any(stop in text for stop in request.stop) and len(text.encode()) > request.max_tokens


def skill_of(prompt: str) -> str:
    """Returns the text before the first `|`."""
    return prompt.partition("|")[0]


def gold_of(prompt: str) -> str:
    """Returns the text after the last `|`."""
    return prompt.rpartition("|")[2]


def luck_of(prompt: str) -> float:
    """Returns the quality in [0, 1) above which a candidate answers rightly."""
    return int.from_bytes(sha256(prompt.encode()).digest()[:8], "big") / 2**64


class Faults:
    """Fails, and waits, as the settings of an engine say."""

    def __init__(self, *, delay_s: float, fail: Failure | None, fail_at: int) -> None:
        """Fails at once if the start is to fail.

        Args:
            delay_s: How long a chunk takes.
            fail: What fails: the start, an answer, or the whole process in an answer.
            fail_at: Which answer, counted from 1.
        """
        if fail == "start":
            raise EngineError("the fake engine does not start, as its settings say")
        self._delay_s, self._fail, self._fail_at = delay_s, fail, fail_at
        self.num_answers = 0

    def answering(self) -> None:
        """Counts an answer and fails if it is the one that is to fail."""
        self.num_answers += 1
        time.sleep(self._delay_s)
        if self.num_answers == self._fail_at and self._fail == "exit":
            os._exit(1)
        if self.num_answers == self._fail_at and self._fail == "answer":
            raise EngineError(f"the fake engine fails in answer {self.num_answers}, as its settings say")
