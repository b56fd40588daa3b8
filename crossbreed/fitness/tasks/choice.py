"""Tasks that score whether the gold one of several options is the most likely: 1 if it is, else 0."""

import math
from collections.abc import Sequence
from typing import Literal

from crossbreed.errors import InputError
from crossbreed.fitness.items import FieldValue, Item, field_of
from crossbreed.fitness.protocol import Loglikelihood, Response
from crossbreed.fitness.tasks.config import PromptTaskConfig
from crossbreed.fitness.tasks.task import Answer


class ChoiceTask(PromptTaskConfig):
    """A prompt and options. Its `answer` field holds the gold option's text, or its index from 0."""

    kind: Literal["choice"]
    choices: str | list[str]
    """The field that holds the list of options, or a list of fields with one option each (for CSV)."""
    normalize: Literal["characters", "tokens", "none"] = "characters"
    """The length by which an option's log-likelihood is divided, since long options would lose otherwise."""
    delimiter: str | None = None
    """The text between prompt and option. Default: a space, or nothing with a chat template."""

    @property
    def metric_name(self) -> str:
        """See Kind."""
        return "accuracy"

    def requests(self, item: Item) -> list[Loglikelihood]:
        """Returns one Loglikelihood per option."""
        self._gold_index(item)
        prompt = self.render(item)
        delimiter = self.delimiter if self.delimiter is not None else " " * (not self.chat_template)
        return [Loglikelihood(prompt=prompt, continuation=delimiter + option) for option in self._options(item)]

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns the request for the gold option."""
        return self.requests(item)[self._gold_index(item)]

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Returns 1 if the gold option is the most likely, else 0; of equally likely options, the first counts."""
        options = self._options(item)
        lengths = {
            "characters": [len(option) for option in options],
            "tokens": [len(response.token_ids) for response in responses],
            "none": [1] * len(options),
        }[self.normalize]
        values = [math.fsum(r.logprobs) / length for r, length in zip(responses, lengths, strict=True)]
        chosen = values.index(max(values))
        return Answer(value=float(chosen == self._gold_index(item)), text=options[chosen])

    def shown(self, item: Item) -> str:
        """Returns the gold option's text, even if the file gives its index."""
        return self._options(item)[self._gold_index(item)]

    def _options(self, item: Item) -> list[str]:
        found: FieldValue
        if isinstance(self.choices, str):
            found = field_of(item, self.choices, task=self.name)
        else:
            found = [field_of(item, name, task=self.name) for name in self.choices]
        if not isinstance(found, list) or len(found) < 2 or not all(str(option) for option in found):
            raise InputError(
                f"item `{item.id}` has no list of options",
                expected="a list of at least two non-empty texts",
                got=repr(found)[:200],
                where=f"task `{self.name}`, `choices: {self.choices}`",
                fix="name the field that holds the list, or the fields that hold one option each",
            )
        return [str(option) for option in found]

    def _gold_index(self, item: Item) -> int:
        gold, options = self.gold(item), self._options(item)
        if isinstance(gold, str) and gold in options:
            return options.index(gold)
        if isinstance(gold, int | str) and str(gold).isdecimal() and int(gold) < len(options):
            return int(gold)
        raise self.unscorable(item, expected=f"one of {options}, or an index from 0 to {len(options) - 1}")
