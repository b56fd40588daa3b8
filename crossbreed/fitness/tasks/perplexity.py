"""Tasks that measure how likely a text is to the model: an indicator of what a merge forgets."""

from typing import Literal

from crossbreed.errors import InputError, excerpt
from crossbreed.fitness.items import Item, field_of
from crossbreed.fitness.requests import Loglikelihood, Prompt
from crossbreed.fitness.tasks.config import FileTaskConfig
from crossbreed.fitness.tasks.nats import NatsPerToken


class PerplexityTask(NatsPerToken, FileTaskConfig):
    """Mean negative log-likelihood per token, in nats: lower is better. Its exponential is the perplexity."""

    kind: Literal["perplexity"]
    text: str = "text"
    """The field that holds the text."""

    def requests(self, item: Item) -> list[Loglikelihood]:
        """Returns one Loglikelihood, of the text after an empty prompt."""
        text = field_of(item, self.text, task=self.name)
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"item `{item.id}` has no text",
                expected="a non-empty text",
                got=excerpt(repr(text), at_most=200),
                where=f"task `{self.name}`, field `{self.text}`",
            )
        return [Loglikelihood(prompt=Prompt(text=""), continuation=text)]

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns the same Loglikelihood as `requests`."""
        [request] = self.requests(item)
        return request
