"""The base classes of task settings: for any kind, for kinds with a file of items, and for kinds with a prompt."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from crossbreed.config import Config, InputPath, Name
from crossbreed.errors import InputError, excerpt
from crossbreed.fitness.item_files import load_items
from crossbreed.fitness.items import Item, field_of
from crossbreed.fitness.protocol import Surroundings
from crossbreed.fitness.requests import Loglikelihood, Prompt, Request, Response
from crossbreed.fitness.tasks.prompts import delimiter_after, field_names, fill_prompt, misread_field, turns_of
from crossbreed.fitness.tasks.task import Answer
from crossbreed.fitness.values import FieldValue, text_of
from crossbreed.types import canonical_json

SHOWN_KEYS = ("few_shot",)
"""Keys of a spec under which values are shown to the model, as they are written."""


class TaskConfig(Config, ABC):
    """A kind of task in a spec: its settings and its behaviour. Satisfies `Kind`."""

    best: ClassVar[float | None] = 1.0
    """The value of a right answer, where more is better; None: it is not known."""

    kind: str
    name: Name
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
    def span(self) -> tuple[float, float] | None:
        """The smallest and the largest value of an item, for messages on bounds; None: not known."""
        return None

    @property
    def most_tokens(self) -> int | None:
        """The length of its longest answers, in tokens; None: its answers are no texts."""
        return None

    @property
    def asks(self) -> bool:
        """Whether it makes requests of its items; else the engine or a function of the user's asks or scores."""
        return True

    @property
    def is_scored_by_engine(self) -> bool:
        """Whether an engine that `scores_items` has to score its items; no other engine can."""
        return False

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

    def needed(self, item: Item) -> tuple[str, ...]:
        """Returns texts of which a right answer contains at least one; none if that is not known.

        A run refuses an item whose every text has more tokens than `max_tokens`.
        """
        return ()

    def right_texts(self, item: Item) -> tuple[str, ...]:
        """Returns texts each of which is a right answer in full; none if answers are no texts, or that is not known.

        `crossbreed check` counts how many fit into `max_tokens`, and how often one text is right.
        """
        return ()

    def gold_values(self, item: Item) -> Mapping[str, float]:
        """Returns metric -> the value of the gold answer by it, where several are combined; else nothing."""
        return {}

    def gold_position(self, item: Item) -> int | None:
        """Returns the place of the right answer among the options that are offered; None if none are."""
        return None

    def num_options(self, item: Item) -> int | None:
        """Returns how many options are offered, one of which is right; None if none are."""
        return None

    def require(self) -> None:
        """Raises InputError unless this machine can score the task: a package or a function is missing, for example."""

    def with_seed(self, seed: int) -> Self:
        """Returns the task with the run's seed, for kinds that draw something of each item."""
        return self

    def for_host(self, host: Path | None, *, context_tokens: int | None) -> Self:
        """Returns the task as the models of a host are asked, for kinds that make tokens of their prompts.

        Args:
            host: The folder of the tokenizer; None: whoever answers has one of its own.
            context_tokens: Longest prompt plus answer; None: what the host's config allows.
        """
        return self

    def questions(self, item: Item) -> frozenset[str]:
        """Returns texts, one of which two items share if they ask the same in another frame; none if nothing tells."""
        return frozenset()

    def notes(self) -> tuple[str, ...]:
        """Returns what a user should know of the task's items, a sentence each; once they are loaded."""
        return ()

    @property
    def num_calls(self) -> int:
        """How often judges are asked about the answers to one item, at most."""
        return 0

    @property
    def most_abstentions(self) -> float:
        """The share of items without a verdict above which a candidate could not be measured."""
        return 0.0

    def begun(self, around: Surroundings, closing: ExitStack) -> Self:
        """Returns the task ready to score, in the process that does it: connected to the judges that it asks.

        Args:
            around: What a run lets them use.
            closing: Ends the connections, when all is scored.
        """
        return self

    def judged(self, item: Item, text: str) -> tuple[str, ...]:
        """Returns what judges are asked about an answer to an item."""
        return ()

    def identity(self) -> dict[str, Any]:
        """Returns, as JSON, the settings that must not change on resume; items are compared separately."""
        return self.model_dump(mode="json")


class FileTaskConfig(TaskConfig):
    """A kind of task whose items are in a file."""

    items: InputPath
    """A `.jsonl`, `.json`, `.csv` or `.parquet` file (docs/items.md). Items without `id` get a hash of their
    content."""

    def load_items(self) -> tuple[Item, ...]:
        """Reads the file."""
        return load_items(self.items)

    def identity(self) -> dict[str, Any]:
        """Returns all settings except the path: a file may be moved."""
        return self.model_dump(mode="json", exclude={"items"})


class PromptTaskConfig(FileTaskConfig):
    """A kind of task with a prompt and a gold answer."""

    prompt: str = ""
    """A Python format string over the item's fields: `"Question: {question}\\nAnswer:"`; a literal brace is doubled."""
    messages: str | None = None
    """Instead of `prompt`, for chats: the field with the list of `{role, content}`, the user's turn last."""
    answer: str
    """The field that holds the gold answer."""
    system: str | None = None
    """System message; needs `chat_template`."""
    few_shot: str | list[dict[str, FieldValue]] = ""
    """Text before the prompt, or examples (items with their answers) that are rendered like the prompt."""
    chat_template: bool = False
    """Send the prompt as a user message through the tokenizer's chat template, whose date is fixed at 26 July 2024."""

    @model_validator(mode="after")
    def _messages_go_through_a_template(self) -> Self:
        if self.messages is None:
            return self
        if self.prompt or self.few_shot:
            raise ValueError("`messages` takes the place of `prompt` and `few_shot`: remove them")
        if not self.chat_template:
            raise ValueError("`messages` needs `chat_template: true`")
        return self

    def render(self, item: Item) -> Prompt:
        """Returns the prompt for an item, examples first."""
        if self.system is not None and not self.chat_template:
            raise InputError("`system` needs a chat template", where=f"task `{self.name}`", fix="chat_template: true")
        if self.messages is None:
            text = self._shots() + self.question(item)
            return Prompt(text=text, chat=self.chat_template, system=self.system)
        turns = turns_of(item, self.messages, task=self.name)
        system = turns[0][1] if turns[0][0] == "system" else None
        if system is not None and self.system is not None:
            raise InputError(
                f"item `{item.id}` has a system message of its own",
                where=item.place(self.name, self.messages),
                fix="remove the task's `system`, or the item's",
            )
        between = turns[system is not None : -1]
        return Prompt(text=turns[-1][1], chat=True, system=self.system if system is None else system, turns=between)

    def question(self, item: Item) -> str:
        """Returns what the item itself asks: the filled prompt or the turns, without examples and system message.

        Raises:
            InputError: the prompt cannot be filled, or its only fields stand in doubled braces.
        """
        if self.messages is not None:
            return "\n".join(content for _, content in turns_of(item, self.messages, task=self.name))
        if (name := misread_field(self.prompt)) and not field_names(self.prompt):
            raise self._without_field(f"fields are written {{{name}}}, not {{{{{name}}}}}")
        return fill_prompt(self.prompt, item, task=self.name)

    def require_question(self, item: Item) -> None:
        """Raises InputError if the prompt says nothing of the item, for kinds in which nothing else tells."""
        if self.messages is not None:
            return
        if not (names := field_names(self.prompt)):
            raise self._without_field("name the field of the question in the prompt: {question}")
        if not any(value.strip() for value in self.shown_values(item)):
            raise InputError(
                f"item `{item.id}` asks nothing",
                expected=f"a text in {' or '.join(f'`{name}`' for name in names)}",
                got="nothing, or blanks alone",
                where=item.place(self.name, names[0]),
                fix="fill it in, or remove the item",
            )

    def shown_values(self, item: Item) -> list[str]:
        """Returns the texts of the fields in the prompt, or the turns."""
        if self.messages is not None:
            return [content for _, content in turns_of(item, self.messages, task=self.name)]
        found = (item.fields.get(name) for name in field_names(self.prompt))
        return [value if isinstance(value, str) else canonical_json(value) for value in found]

    def gold(self, item: Item) -> FieldValue:
        """Returns the gold answer as it is in the file; an empty text if the task names no field for it."""
        return field_of(item, self.answer, task=self.name) if self.answer else ""

    def golds(self, item: Item, *, by_value: bool = False) -> tuple[str, ...]:
        """Returns the texts of the right answers: a list of texts means any of them.

        Args:
            item: The item.
            by_value: Whether any notation of a number will do.

        Raises:
            InputError: the answer is neither a text, a number nor a list of them.
        """
        return self.texts_of(item, self.gold(item), by_value=by_value)

    def texts_of(self, item: Item, gold: FieldValue, *, by_value: bool = False) -> tuple[str, ...]:
        """Returns the texts of the right answers that a field's value stands for; see `golds`."""
        try:
            texts = tuple(text_of(one, by_value=by_value) for one in (gold if isinstance(gold, list) else [gold]))
        except ValueError as error:
            raise self.unscorable(item, expected="a text, a number, or a list of them", got=str(error)) from None
        if not texts:
            raise self.unscorable(item, expected="a text, a number, or a list of them", got="an empty list")
        return texts

    def shown(self, item: Item) -> str:
        """Returns the first right answer as text, as in few-shot examples."""
        return self.golds(item)[0]

    def unscorable(self, item: Item, *, expected: str, got: str = "", fix: str = "") -> InputError:
        """Returns the error for a gold answer that no response could match."""
        return InputError(
            f"the answer of item `{item.id}` can never be given: no response can match it",
            expected=expected,
            got=got or excerpt(repr(self.gold(item)), at_most=200),
            where=item.place(self.name, self.answer),
            fix=fix or "correct the item, or name the field that holds the answer",
        )

    def shot_answer(self, shot: Item) -> str:
        """Returns the answer of an example."""
        return self.shown(shot)

    def delimiter_after(self, prompt: str) -> str:
        """Returns what separates an answer from its prompt in plain text and in examples."""
        return delimiter_after(prompt)

    def _without_field(self, fix: str) -> InputError:
        return InputError(
            "the prompt has no field: every item would be asked the same",
            expected="a field of the items in braces: {question}",
            got=excerpt(repr(self.prompt), at_most=200),
            where=f"task `{self.name}`, `prompt`",
            fix=fix,
        )

    def _shots(self) -> str:
        if isinstance(self.few_shot, str):
            return self.few_shot
        shots = [Item(id=f"few_shot {i}", fields=fields) for i, fields in enumerate(self.few_shot)]
        filled = ((self.question(shot), self.shot_answer(shot)) for shot in shots)
        return "".join(f"{prompt}{self.delimiter_after(prompt)}{answer}\n\n" for prompt, answer in filled)
