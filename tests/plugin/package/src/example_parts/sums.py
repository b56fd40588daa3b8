"""Sums of two numbers, which the task writes itself: a kind without a file of items."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from crossbreed.fitness import Answer, Generate, Item, Loglikelihood, Prompt, Response, TaskConfig, fill_prompt


class SumsTask(TaskConfig):
    """Sums of two numbers, right or wrong."""

    kind: Literal["sums"] = "sums"
    below: Annotated[int, Field(ge=4)] = 12
    """The numbers to be added are smaller than this."""
    prompt: str = "{a} + {b} ="
    """A Python format string over `a`, `b` and their `sum`."""

    @property
    def metric_name(self) -> str:
        """What the value is called on a published card."""
        return "accuracy"

    def load_items(self) -> tuple[Item, ...]:
        """Returns every pair of numbers."""
        pairs = [(a, b) for a in range(self.below) for b in range(self.below)]
        return tuple(Item(id=f"{a}+{b}", fields={"a": a, "b": b, "sum": a + b}) for a, b in pairs)

    def requests(self, item: Item) -> list[Generate]:
        """Returns one prompt."""
        text = fill_prompt(self.prompt, item, task=self.name)
        return [Generate(prompt=Prompt(text=text), max_tokens=8, stop=("\n",))]

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Compares the text with the sum."""
        [response] = responses
        return Answer(value=float(response.text.strip() == self.shown(item)), text=response.text)

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns the right answer after the prompt, for optimizers that take gradients."""
        [request] = self.requests(item)
        return Loglikelihood(prompt=request.prompt, continuation=f" {self.shown(item)}")

    def shown(self, item: Item) -> str:
        """Returns the sum."""
        return str(item.fields["sum"])
