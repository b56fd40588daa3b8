"""Tasks that let the model write and compare what it wrote with the gold answer: 1 for right, 0 for wrong."""

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from crossbreed.fitness.items import Item
from crossbreed.fitness.protocol import Generate, Loglikelihood, Request, Response
from crossbreed.fitness.tasks.metrics import METRICS, regex
from crossbreed.fitness.tasks.task import Answer, PromptSettings


class GenerateTask(PromptSettings):
    """A prompt, a greedy answer, and a gold text."""

    kind: Literal["generate"]
    metric: Literal["exact_match", "contains", "number", "regex"] = "exact_match"
    """What equals the gold (or holds it, `contains`): the first line, the last number, a pattern's group."""
    pattern: str | None = None
    """For `metric: regex`: a regular expression whose first group is the answer."""
    max_tokens: Annotated[int, Field(ge=1)] = 16
    """Tokens at most."""
    stop: list[Annotated[str, Field(min_length=1)]] | None = None
    """Texts that end an answer, as the model's own end does. Unless given: a newline, where the gold is one line."""

    higher_is_better: ClassVar[bool] = True

    @model_validator(mode="after")
    def _pattern_goes_with_regex(self) -> "GenerateTask":
        if (self.metric == "regex") != (self.pattern is not None):
            raise ValueError("`pattern` and `metric: regex` go together")
        try:
            if self.pattern is not None and re.compile(self.pattern).groups < 1:
                raise ValueError(f"`pattern` has no group, put (...) around the answer: {self.pattern!r}")
        except re.error as error:
            raise ValueError(f"`pattern` is not a regular expression: {error}") from None
        return self

    def requests(self, item: Item) -> list[Request]:
        """One Generate."""
        gold = self.shown(item)
        if not (gold.strip() if self.metric == "regex" else METRICS[self.metric](gold, gold)):
            raise self.unscorable(item, expected=f"what `{self.metric}` can match")
        return [Generate(prompt=self.render(item), max_tokens=self.max_tokens, stop=self._stops(item))]

    def calibration(self, item: Item) -> Loglikelihood:
        """The gold answer as few-shot examples write it: after a space, and ended by the first stop.

        In a chat there is neither: templates end the prompt where the answer begins, and a turn in a way of their own.
        """
        prompt, gold = self.render(item), self.shown(item).strip()
        if not self.chat_template:
            gold = " " * (not prompt.text[-1:].isspace()) + gold + (*self._stops(item), "")[0]
        return Loglikelihood(prompt=prompt, continuation=gold)

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """1 for right, 0 for wrong."""
        [response] = responses
        gold = self.shown(item)
        if self.pattern is not None:
            right = regex(response.text, gold, re.compile(self.pattern))
        else:
            right = METRICS[self.metric](response.text, gold)
        return Answer(value=float(right), text=response.text)

    def _stops(self, item: Item) -> tuple[str, ...]:
        return tuple(self.stop if self.stop is not None else ["\n"] * ("\n" not in self.shown(item).strip()))
