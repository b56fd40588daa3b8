"""The value of tasks that score one text: how unlikely its tokens are."""

import math
from collections.abc import Sequence

from crossbreed.fitness.items import Item
from crossbreed.fitness.requests import Response
from crossbreed.fitness.tasks.task import Answer


class NatsPerToken:
    """Mean negative log-likelihood per token of one scored text, in nats: lower is better. Mixed into tasks."""

    @property
    def metric_name(self) -> str:
        """See Kind."""
        return "nats per token"

    @property
    def span(self) -> tuple[float, float]:
        """See TaskConfig."""
        return 0.0, math.inf

    @property
    def higher_is_better(self) -> bool:
        """False: a likely text has fewer nats."""
        return False

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Returns the nats per token."""
        [response] = responses
        return Answer(value=-math.fsum(response.logprobs) / len(response.logprobs), text="")
