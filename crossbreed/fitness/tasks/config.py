"""The base classes of task settings: for any kind, for kinds with a file of items, and for kinds with a prompt."""

import re
import string
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from crossbreed.config import Config, InputPath
from crossbreed.errors import InputError
from crossbreed.fitness.items import FieldValue, Item, field_of, load_items
from crossbreed.fitness.protocol import Loglikelihood, Prompt, Request, Response
from crossbreed.fitness.tasks.task import Answer


class TaskConfig(Config, ABC):
    """A kind of task in a spec: its settings and its behaviour. Satisfies `Kind`."""

    kind: str
    name: Annotated[str, Field(min_length=1)]
    """The name of the task in objectives, reports and the journal."""
    stratify: str | None = None
    """A field (difficulty, language) by whose values the splits are stratified."""
    chunk: Annotated[int, Field(ge=1)] = 64
    """Items per engine call. Fixed, since in low precision an answer can depend on the others in its batch."""

    @abstractmethod
    def load_items(self) -> tuple[Item, ...]:
        """Returns all items of the task, each with a unique id; the same ones every time.

        Raises:
            InputError: they cannot be loaded.
        """

    @abstractmethod
    def requests(self, item: Item) -> Sequence[Request]:
        """See Kind."""

    @abstractmethod
    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """See Kind."""

    @property
    def metric_name(self) -> str:
        """The kind's name; see Kind."""
        return self.kind

    @property
    def higher_is_better(self) -> bool:
        """True; see Kind."""
        return True

    def calibration(self, item: Item) -> Loglikelihood:
        """Raises InputError; kinds with correct answers override it. See Kind."""
        raise InputError(
            f"a task of kind `{self.kind}` has no correct answers on which to compute a loss",
            where=f"task `{self.name}`",
            fix="use an optimizer and an operator that need neither gradients nor Grams, or remove the task",
        )

    def shown(self, item: Item) -> str:
        """Returns an empty text: there is no gold answer. See Kind."""
        return ""

    def identity(self) -> dict[str, Any]:
        """Returns, as JSON, the settings that must not change on resume; items are compared separately."""
        return self.model_dump(mode="json")


class FileTaskConfig(TaskConfig):
    """A kind of task whose items are in a file."""

    items: InputPath
    """A `.jsonl`, `.csv` or `.parquet` file; items without `id` get a hash of their content."""

    def load_items(self) -> tuple[Item, ...]:
        """Reads the file."""
        return load_items(self.items)

    def identity(self) -> dict[str, Any]:
        """Returns all settings except the path: a file may be moved."""
        return self.model_dump(mode="json", exclude={"items"})


class PromptTaskConfig(FileTaskConfig):
    """A kind of task with a prompt and a gold answer."""

    prompt: str
    """A Python format string over the item's fields: `"Question: {question}\\nAnswer:"`."""
    answer: str
    """The field that holds the gold answer."""
    system: str | None = None
    """System message; needs `chat_template`."""
    few_shot: str | list[dict[str, FieldValue]] = ""
    """Text before the prompt, or examples (items with their answers) that are rendered like the prompt."""
    chat_template: bool = False
    """Send the prompt as a user message through the tokenizer's chat template, whose date is fixed at 26 July 2024."""

    def render(self, item: Item) -> Prompt:
        """Returns the prompt for an item, examples first."""
        if self.system is not None and not self.chat_template:
            raise InputError("`system` needs a chat template", where=f"task `{self.name}`", fix="chat_template: true")
        text = self._shots() + fill_prompt(self.prompt, item, task=self.name)
        return Prompt(text=text, chat=self.chat_template, system=self.system)

    def gold(self, item: Item) -> FieldValue:
        """Returns the gold answer as it is in the file."""
        return field_of(item, self.answer, task=self.name)

    def shown(self, item: Item) -> str:
        """Returns the gold answer as text, as in few-shot examples."""
        return str(self.gold(item))

    def unscorable(self, item: Item, *, expected: str) -> InputError:
        """Returns the error for a gold answer that no response could match."""
        return InputError(
            f"no response can match the answer of item `{item.id}`",
            expected=expected,
            got=repr(self.gold(item))[:200],
            where=f"task `{self.name}`, field `{self.answer}`",
            fix="correct the item, or use another metric",
        )

    def _shots(self) -> str:
        if isinstance(self.few_shot, str):
            return self.few_shot
        shots = [Item(id=f"few_shot {i}", fields=fields) for i, fields in enumerate(self.few_shot)]
        filled = ((fill_prompt(self.prompt, shot, task=self.name), self.shown(shot)) for shot in shots)
        return "".join(f"{prompt} {answer}\n\n" for prompt, answer in filled)


def fill_prompt(template: str, item: Item, *, task: str) -> str:
    """Returns a format string filled with an item's fields.

    >>> fill_prompt("{a} + {b} =", Item(id="1", fields={"a": 1, "b": 2}), task="sums")
    '1 + 2 ='

    Raises:
        InputError: it names a field that the item does not have, or is not a format string.
    """
    try:
        for _, name, _, _ in string.Formatter().parse(template):
            if name is not None:
                field_of(item, re.split(r"[.\[]", name)[0], task=task)
        return template.format(**item.fields)
    except InputError:
        raise
    except (ValueError, LookupError, AttributeError) as error:
        raise InputError(
            f"the prompt cannot be filled with item `{item.id}`: {error}",
            expected="field names in braces; a literal brace is doubled",
            got=template,
            where=f"task `{task}`",
        ) from None
