"""Tasks that compare generated text with the gold answer."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from crossbreed.fitness.items import Item
from crossbreed.fitness.protocol import Generate, Loglikelihood, Request, Response
from crossbreed.fitness.tasks.config import PromptTaskConfig
from crossbreed.fitness.tasks.metrics import METRICS, check_pattern
from crossbreed.fitness.tasks.task import Answer
from crossbreed.registry import Named

_DECIMAL_COMMA = re.compile(r"[-+\u2212]?\d+,\d+")


class GenerateTask(PromptTaskConfig):
    """A prompt whose greedy answer is compared with a gold text."""

    kind: Literal["generate"]
    metric: Annotated[str, Named(METRICS)] = "exact_match"
    """The comparison of the text with the gold."""
    pattern: str | None = None
    """For `metric: regex`: a regular expression whose first group is the answer. It may take 5 s for one text."""
    max_tokens: Annotated[int, Field(ge=1)] = 16
    """Maximum number of generated tokens."""
    stop: list[Annotated[str, Field(min_length=1)]] | None = None
    """Texts that end an answer, besides the model's end token. Default: a newline, if the gold is a single line."""

    @model_validator(mode="after")
    def _pattern_goes_with_its_metric(self) -> "GenerateTask":
        takes_pattern = METRICS[self.metric].takes_pattern
        if takes_pattern and self.pattern is None:
            raise ValueError(f"`metric: {self.metric}` needs a `pattern`")
        if not takes_pattern and self.pattern is not None:
            raise ValueError(f"`metric: {self.metric}` takes no `pattern`; `regex` does")
        if self.pattern is not None:
            check_pattern(self.pattern)
        return self

    @property
    def metric_name(self) -> str:
        """The name of the metric; see Kind."""
        return self.metric

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values of the metric are better; see Kind."""
        return METRICS[self.metric].higher_is_better

    def requests(self, item: Item) -> list[Request]:
        """Returns one Generate."""
        self._reachable(item)
        prompt = self.render(item)
        self.require_question(item)
        return [Generate(prompt=prompt, max_tokens=self.max_tokens, stop=self._stops(item))]

    def needed(self, item: Item) -> tuple[str, ...]:
        """Returns the golds, for a metric that looks for one in the text."""
        return self._reachable(item) if METRICS[self.metric].needs_gold else ()

    def right_texts(self, item: Item) -> tuple[str, ...]:
        """Returns the golds."""
        return tuple(gold.strip() for gold in self._texts(item))

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns the gold answer in the form of few-shot examples: after a space, and ended by the first stop.

        Both are omitted in a chat: templates end the prompt where the answer begins, and mark the end of a turn
        themselves.
        """
        prompt, gold = self.render(item), self.shown(item).strip()
        if not self.chat_template:
            gold = self.delimiter_after(prompt.text) + gold + (*self._stops(item), "")[0]
        return Loglikelihood(prompt=prompt, continuation=gold)

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Returns the metric's value of the text: the best over all golds."""
        [response] = responses
        pattern = () if self.pattern is None else (re.compile(self.pattern),)
        metric = METRICS[self.metric]
        values = [float(metric(response.text, gold, *pattern)) for gold in self._texts(item)]
        return Answer(value=max(values) if metric.higher_is_better else min(values), text=response.text)

    def shown(self, item: Item) -> str:
        """Returns the first right answer."""
        return self._texts(item)[0]

    def _texts(self, item: Item) -> tuple[str, ...]:
        return self.golds(item, by_value=METRICS[self.metric].by_value)

    def _reachable(self, item: Item) -> tuple[str, ...]:
        """Returns the golds that some text can match; raises InputError if there is none."""
        metric, stops = METRICS[self.metric], self._stops(item)
        golds = [gold.strip() for gold in self._texts(item) if metric.can_match(gold)]
        whole = [gold for gold in golds if not (metric.needs_gold and any(stop in gold for stop in stops))]
        if golds and not whole:
            cut = next(stop for stop in stops if stop in golds[0])
            raise self.unscorable(
                item,
                expected=f"an answer without {cut!r}, at which texts end",
                fix="remove it from `stop`, or from the item",
            )
        if not whole:
            comma = metric.by_value and _DECIMAL_COMMA.fullmatch(self._texts(item)[0].strip())
            fix = "a comma divides thousands: write decimals after a point, as in 83.2" if comma else ""
            raise self.unscorable(item, expected=f"an answer that `metric: {self.metric}` can match", fix=fix)
        return tuple(whole)

    def _stops(self, item: Item) -> tuple[str, ...]:
        if self.stop is not None:
            return tuple(self.stop)
        return ("\n",) * (not any("\n" in gold.strip() for gold in self._texts(item)))
