"""What a task is: settings that turn an item into requests and responses into a value, and the items to ask."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

from crossbreed.config import Config, InputPath
from crossbreed.errors import InputError
from crossbreed.fitness.items import FieldValue, Item, field_of
from crossbreed.fitness.protocol import Loglikelihood, Prompt, Request, Response


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an item came to."""

    value: float
    text: str
    """What the model said, for people."""


class Kind(Protocol):
    """A kind of task: how it asks and how it judges. The built-in kinds are their own settings."""

    @property
    def name(self) -> str:
        """The task's name in the spec."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the value is better."""
        ...

    @property
    def chunk(self) -> int:
        """Items that share one call of the engine: part of what must be reproduced."""
        ...

    @property
    def stratify(self) -> str | None:
        """The field whose values every split has in proportion."""
        ...

    def requests(self, item: Item) -> Sequence[Request]:
        """Returns what is asked about an item.

        Raises:
            InputError: the item lacks a field, or its gold answer can never be right.
        """
        ...

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Judges the responses to `requests(item)`, in the same order."""
        ...

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns what a model that is right finds likely: the gold answer after the prompt, or the text itself.

        Its mean log-probability a token is smooth in the weights where the task's value may be a step: so it is what
        slopes are taken of, and what inputs are gathered on.
        """
        ...

    def shown(self, item: Item) -> str:
        """Returns the gold answer for people; empty where there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A kind of task with its items."""

    kind: Kind
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        """The task's name in the spec."""
        return self.kind.name

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the value is better."""
        return self.kind.higher_is_better

    def requests(self, item: Item) -> Sequence[Request]:
        """Returns what is asked about an item."""
        return self.kind.requests(item)

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Judges the responses to `requests(item)`."""
        return self.kind.score(item, responses)

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns what a model that is right finds likely; see `Kind`."""
        return self.kind.calibration(item)


class TaskSettings(Config):
    """What the settings of all kinds have."""

    name: Annotated[str, Field(min_length=1)]
    """How objectives, reports and the journal call the task."""
    items: InputPath
    """A `.jsonl`, `.csv` or `.parquet` file; items without `id` get a hash of their content."""
    stratify: str | None = None
    """A field whose values (difficulty, language) every split has in proportion."""
    chunk: Annotated[int, Field(ge=1)] = 64
    """Items that share one call of the engine. Fixed, since in low precision an answer can depend on its neighbours."""


class PromptSettings(TaskSettings):
    """What the settings of kinds with a prompt have."""

    prompt: str
    """A Python format string over the item's fields: `"Question: {question}\\nAnswer:"`."""
    answer: str
    """The field that holds the gold answer."""
    system: str | None = None
    """System message; needs `chat_template`."""
    few_shot: str | list[dict[str, FieldValue]] = ""
    """Text before the prompt, or examples (items, with their answers) that are rendered as the prompt is."""
    chat_template: bool = False
    """Send the prompt as a user's message through the tokenizer's chat template. Its date is 26 July 2024."""

    def render(self, item: Item) -> Prompt:
        """Returns the prompt for an item, examples first."""
        if self.system is not None and not self.chat_template:
            raise InputError("`system` needs a chat template", where=f"task `{self.name}`", fix="chat_template: true")
        text = self._shots() + self._fill(item)
        return Prompt(text=text, chat=self.chat_template, system=self.system)

    def gold(self, item: Item) -> FieldValue:
        """Returns the gold answer as the file has it."""
        return field_of(item, self.answer, task=self.name)

    def shown(self, item: Item) -> str:
        """Returns the gold answer as an example shows it."""
        return str(self.gold(item))

    def unscorable(self, item: Item, *, expected: str) -> InputError:
        """Returns the error for a gold answer that no response could match."""
        return InputError(
            f"the answer of item `{item.id}` can never be given",
            expected=expected,
            got=repr(self.gold(item))[:200],
            where=f"task `{self.name}`, field `{self.answer}`",
            fix="correct the item, or choose another metric",
        )

    def _shots(self) -> str:
        if isinstance(self.few_shot, str):
            return self.few_shot
        shots = [Item(id=f"few_shot {i}", fields=fields) for i, fields in enumerate(self.few_shot)]
        return "".join(f"{self._fill(shot)} {self.shown(shot)}\n\n" for shot in shots)

    def _fill(self, item: Item) -> str:
        try:
            for _, name, _, _ in string.Formatter().parse(self.prompt):
                if name is not None:
                    field_of(item, re.split(r"[.\[]", name)[0], task=self.name)
            return self.prompt.format(**item.fields)
        except InputError:
            raise
        except (ValueError, LookupError, AttributeError) as error:
            raise InputError(
                f"the prompt cannot be filled with item `{item.id}`: {error}",
                expected="field names in braces; a literal brace is doubled",
                got=self.prompt,
                where=f"task `{self.name}`",
            ) from None
