"""Tasks that ask how well the model expects a text: a gauge of what a merge forgets."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from crossbreed.errors import InputError
from crossbreed.fitness.items import Item, field_of
from crossbreed.fitness.protocol import Loglikelihood, Prompt, Response
from crossbreed.fitness.tasks.task import Answer, TaskSettings


class PerplexityTask(TaskSettings):
    """Mean negative log-likelihood a token, in nats: lower is better. Its exponential is the perplexity."""

    kind: Literal["perplexity"]
    text: str = "text"
    """The field that holds the text."""

    higher_is_better: ClassVar[bool] = False

    def requests(self, item: Item) -> list[Loglikelihood]:
        """One Loglikelihood, of the text after nothing."""
        text = field_of(item, self.text, task=self.name)
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"item `{item.id}` has no text",
                expected="a non-empty text",
                got=repr(text)[:200],
                where=f"task `{self.name}`, field `{self.text}`",
            )
        return [Loglikelihood(prompt=Prompt(text=""), continuation=text)]

    def calibration(self, item: Item) -> Loglikelihood:
        """The text after nothing: what is asked, too."""
        [request] = self.requests(item)
        return request

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Nats a token."""
        [response] = responses
        return Answer(value=-math.fsum(response.logprobs) / len(response.logprobs), text="")

    def shown(self, item: Item) -> str:
        """A text has no gold answer."""
        return ""
