"""Tasks that measure how likely the gold answer is: the cross-entropy that papers on adapters minimise."""

from typing import Literal

from crossbreed.fitness.items import Item
from crossbreed.fitness.requests import Loglikelihood
from crossbreed.fitness.tasks.config import PromptTaskConfig
from crossbreed.fitness.tasks.nats import NatsPerToken


class LikelihoodTask(NatsPerToken, PromptTaskConfig):
    """Mean negative log-likelihood per token of the gold answer after the prompt, in nats: lower is better.

    A smooth loss, where the share of right answers of a few examples is a step. Of several golds, the first counts.
    """

    kind: Literal["likelihood"]

    def requests(self, item: Item) -> list[Loglikelihood]:
        """Returns one Loglikelihood, of the gold answer."""
        self.require_question(item)
        return [self.calibration(item)]

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns the gold answer after a space; in a chat, as the answer begins there."""
        prompt, gold = self.render(item), self.shown(item).strip()
        if not gold:
            raise self.unscorable(item, expected="an answer that is not empty", got=repr(self.shown(item)))
        between = "" if self.chat_template else self.delimiter_after(prompt.text)
        return Loglikelihood(prompt=prompt, continuation=between + gold)

    def right_texts(self, item: Item) -> tuple[str, ...]:
        """Returns the golds."""
        return tuple(gold.strip() for gold in self.golds(item))

    def shown(self, item: Item) -> str:
        """Returns the first gold."""
        return self.golds(item)[0]
