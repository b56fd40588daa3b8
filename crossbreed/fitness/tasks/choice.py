"""Tasks that score whether the gold one of several options is the most likely: 1 if it is, else 0."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Literal, Self

from pydantic import PrivateAttr, model_validator

from crossbreed.errors import Collector, InputError, excerpt
from crossbreed.fitness.item_files import legible_items, require_items
from crossbreed.fitness.item_mistakes import ItemMistakes
from crossbreed.fitness.items import Item, field_of
from crossbreed.fitness.requests import Loglikelihood, Response
from crossbreed.fitness.tasks.config import PromptTaskConfig
from crossbreed.fitness.tasks.prompts import folded
from crossbreed.fitness.tasks.task import Answer
from crossbreed.fitness.values import FieldValue, text_of
from crossbreed.randomness import spawn


class ChoiceTask(PromptTaskConfig):
    """A prompt and options. Its `answer` field names the gold option, by its text or otherwise: see `gold_is`."""

    kind: Literal["choice"]
    choices: str | list[str]
    """The field that holds the list of options, or a list of fields with one option each (for CSV)."""
    normalize: Literal["characters", "tokens", "none"] = "characters"
    """The length by which an option's log-likelihood is divided, since long options would lose otherwise."""
    gold_is: Literal["text", "name", "index", "index_from_1", "letter"] | None = None
    """How `answer` names the gold option: its text, the name of its field, its index from 0 or 1, or its letter (A for
    the first). Default: the one way that fits all items; answers that can be read in two ways are refused."""
    delimiter: str | None = None
    """The text between prompt and option. Default: a space, or nothing after white space or with a chat template."""
    scored: Literal["text", "letter"] = "text"
    """What is scored after the prompt: each option's text, or its letter, where the prompt shows them with letters."""
    permute: bool = False
    """Whether each item offers its options in an order of its own, drawn from the run's seed and the item's id: a model
    that prefers a place gains nothing. The prompt shows them so, as {A} or {options[0]}."""
    _seed: int = PrivateAttr(default=0)

    @model_validator(mode="after")
    def _prompts_can_be_permuted(self) -> Self:
        if self.permute and self.messages is not None:
            raise ValueError("`permute` needs a `prompt` that shows the options: `messages` have an order of their own")
        return self

    @property
    def metric_name(self) -> str:
        """See Kind."""
        return "accuracy"

    @property
    def span(self) -> tuple[float, float]:
        """See TaskConfig."""
        return 0.0, 1.0

    def load_items(self) -> tuple[Item, ...]:
        """Reads the file, and checks that one way of naming the gold option fits all items."""
        mistakes = ItemMistakes(of=self.items)
        items = legible_items(super().load_items, mistakes)
        mistakes.among = len(items)
        with mistakes.noted():
            self._require_one_way(items, mistakes)
        return require_items(mistakes, items)

    def _require_one_way(self, items: Sequence[Item], mistakes: Collector) -> None:
        common: frozenset[str] | None = None
        for item in items:
            ways = frozenset[str]()
            with mistakes.noted():
                ways = frozenset(self._ways(item))
            if not ways:
                continue
            if common is not None and not common & ways:
                raise InputError(
                    "the answers of a task name the right option in different ways",
                    expected="one way for all items",
                    got=f"{' or '.join(sorted(common))} up to item `{item.id}`, {' or '.join(sorted(ways))} there: "
                    + excerpt(repr(self.gold(item)), at_most=120),
                    where=item.place(self.name, self.answer),
                    fix="write all answers in one way; `gold_is` in the task says which, and refuses the others",
                )
            common = ways if common is None else common & ways
        if (
            self.gold_is is None
            and common == frozenset({"index"})
            and not mistakes.errors
            and all(self._gold_index(item) > 0 for item in items)
        ):
            raise self._counted_from_anywhere(items[0])

    def with_seed(self, seed: int) -> Self:
        """Returns the task with the run's seed."""
        seeded = self.model_copy()
        seeded._seed = seed
        return seeded if self.permute else self

    def question(self, item: Item) -> str:
        """Returns what the item asks, with the options in the order in which they are offered."""
        order, values = self._order(item), self._values(item)
        moved = [values[place] for place in order]
        fields = {self.choices: moved} if isinstance(self.choices, str) else dict(zip(self.choices, moved, strict=True))
        return super().question(replace(item, fields={**item.fields, **fields}))

    def requests(self, item: Item) -> list[Loglikelihood]:
        """Returns one Loglikelihood per option."""
        self.gold_position(item)
        prompt = self.render(item)
        if self.scored == "letter":
            self._require_shown(item)
        delimiter = "" if self.delimiter is None and self.chat_template else self.delimiter_after(prompt.text)
        return [Loglikelihood(prompt=prompt, continuation=delimiter + text) for text in self._scored_texts(item)]

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns the request for the gold option."""
        return self.requests(item)[self.gold_position(item)]

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Returns 1 if the gold option is the most likely, else 0; of equally likely options, the first counts.

        The margin is in nats of the whole option, whatever its likelihood is divided by: so far rounding must move it.
        """
        options = self._offered(item)
        lengths = {
            "characters": [len(text) for text in self._scored_texts(item)],
            "tokens": [len(response.token_ids) for response in responses],
            "none": [1] * len(options),
        }[self.normalize]
        values = [math.fsum(r.logprobs) / length for r, length in zip(responses, lengths, strict=True)]
        chosen = values.index(max(values))
        margin = (values[chosen] - max(values[:chosen] + values[chosen + 1 :])) * lengths[chosen]
        return Answer(value=float(chosen == self.gold_position(item)), text=options[chosen], margin=margin)

    def shown(self, item: Item) -> str:
        """Returns what is scored of the gold option: its text, even if the file gives its index, or its letter."""
        return self._scored_texts(item)[self.gold_position(item)]

    def right_texts(self, item: Item) -> tuple[str, ...]:
        """Returns what is scored of the gold option."""
        return (self.shown(item),)

    def gold_position(self, item: Item) -> int:
        """Returns the place at which the gold option is offered."""
        return self._order(item).index(self._gold_index(item))

    def num_options(self, item: Item) -> int:
        """Returns how many options there are."""
        return len(self._options(item))

    def delimiter_after(self, prompt: str) -> str:
        """Returns the task's delimiter, or the usual one."""
        return super().delimiter_after(prompt) if self.delimiter is None else self.delimiter

    def why_no_options(self, item: Item) -> InputError | None:
        """Returns what is wrong with an item's options; None if nothing is."""
        try:
            self._options(item)
        except InputError as error:
            return error
        return None

    def _order(self, item: Item) -> tuple[int, ...]:
        """Returns the indices of the options in the order in which they are offered."""
        number = len(self._values(item))
        if not self.permute:
            return tuple(range(number))
        return tuple(spawn(self._seed, "options", item.id).permutation(number).tolist())

    def _offered(self, item: Item) -> list[str]:
        options = self._options(item)
        return [options[place] for place in self._order(item)]

    def _scored_texts(self, item: Item) -> list[str]:
        offered = self._offered(item)
        return offered if self.scored == "text" else [*ascii_uppercase[: len(offered)]]

    def _require_shown(self, item: Item) -> None:
        """Raises InputError where the prompt does not show what the letters stand for."""
        question, options = self.question(item), self._options(item)
        if missing := [option for option in options if option not in question] or options[len(ascii_uppercase) :]:
            raise InputError(
                f"the prompt of item `{item.id}` does not show the option {missing[0]!r}",
                expected=f"all options in the prompt, with their letters, at most {len(ascii_uppercase)}",
                got=excerpt(question, at_most=200),
                where=item.place(self.name),
                fix="write them there, as in `A. {options[0]}`, or `scored: text`",
            )

    def _values(self, item: Item) -> list[FieldValue]:
        """Returns the options as they are in the file."""
        values: object
        if isinstance(self.choices, str):
            values = field_of(item, self.choices, task=self.name)
        elif missing := [name for name in self.choices if name not in item.fields]:
            raise self._no_options(item, f"no field `{missing[0]}`: `choices` names fields, not options")
        else:
            values = [item.fields[name] for name in self.choices]
        if not isinstance(values, list) or len(values) < 2:
            raise self._no_options(item, excerpt(str(values), at_most=200))
        return values

    def _options(self, item: Item) -> list[str]:
        """Returns the options' texts, in the order of the file."""
        try:
            options = [text_of(value) for value in self._values(item)]
        except ValueError as error:
            raise self._no_options(item, str(error)) from None
        if not all(map(folded, options)):
            fix = "fill it in, or remove the item; `choices: FIELD` takes a list, which may be shorter in some items"
            raise self._no_options(item, excerpt(f"an empty option in {options}", at_most=200), fix=fix)
        if len(set(map(folded, options))) < len(options):
            fix = "correct the item, or remove it"
            raise self._no_options(item, excerpt(f"an option twice in {options}", at_most=200), fix=fix)
        return options

    def _no_options(self, item: Item, got: str, *, fix: str = "") -> InputError:
        return InputError(
            f"item `{item.id}` has no list of options",
            expected="a list of at least two different, non-empty texts or numbers",
            got=got,
            where=f"{item.place(self.name)}, `choices: {self.choices}`",
            fix=fix
            or "name the field that holds the list, or the fields that hold one option each; give every item such a "
            "field where all have the same options",
        )

    def _counted_from_anywhere(self, item: Item) -> InputError:
        options, index = self._options(item), self._gold_index(item)
        return InputError(
            "the answers of a task can be read in two ways",
            expected="an answer of 0 if they count from 0, or the task's `gold_is`",
            got=f"indices from 1 up, none the number of options; {self.gold(item)!r} of item `{item.id}` is "
            f"{options[index]!r} counted from 0, {options[index - 1]!r} counted from 1",
            where=item.place(self.name, self.answer),
            fix="`gold_is: index` if they count from 0, `gold_is: index_from_1` if from 1, in the task",
        )

    def _gold_index(self, item: Item) -> int:
        return next(iter(self._ways(item).values()))

    def _ways(self, item: Item) -> dict[str, int]:
        """Returns way -> index of the gold option; all ways lead to one."""
        gold, options = self.gold(item), self._options(item)
        readings = self._readings(gold, options)
        if self.gold_is is not None:
            readings = {self.gold_is: readings[self.gold_is]} if self.gold_is in readings else {}
        else:
            readings.pop("index_from_1", None)
            if len(readings) > 1:
                readings.pop("letter", None)
        if not readings:
            raise self.unscorable(item, expected=self._expected(options), fix=self._advice(gold, options))
        if len(set(readings.values())) > 1:
            meant = ", or ".join(f"`{options[i]}` as {way}" for way, i in readings.items())
            raise InputError(
                f"the answer of item `{item.id}` can be read in two ways",
                expected="one option",
                got=excerpt(f"{gold!r} for the options {options}: {meant}", at_most=300),
                where=item.place(self.name, self.answer),
                fix=" or ".join(f"`gold_is: {way}`" for way in readings) + " in the task",
            )
        return readings

    def _readings(self, gold: FieldValue, options: Sequence[str]) -> dict[str, int]:
        """Returns way -> index of the option that the gold is when it is read so."""
        found: dict[str, int] = {}
        if isinstance(gold, bool) or not isinstance(gold, str | int | float):
            return found
        text = folded(gold) if isinstance(gold, str) else str(int(gold) if float(gold).is_integer() else gold)
        texts = [folded(option) for option in options]
        if text in texts:
            found["text"] = texts.index(text)
        elif not isinstance(gold, str) and (equal := [i for i, one in enumerate(texts) if _number(one) == gold]):
            found["text"] = equal[0]
        if not isinstance(self.choices, str) and text in self.choices:
            found["name"] = self.choices.index(text)
        index = int(text) if re.fullmatch("[0-9]{1,6}", text) else -1
        if 0 <= index < len(options):
            found["index"] = index
        if 1 <= index <= len(options):
            found["index_from_1"] = index - 1
        if len(text) == 1 and text.upper() in ascii_uppercase[: len(options)]:
            found["letter"] = ascii_uppercase.index(text.upper())
        return found

    def _expected(self, options: Sequence[str]) -> str:
        fields = "" if isinstance(self.choices, str) else f", one of the fields {', '.join(self.choices)}"
        ways = {
            None: f"one of {options}{fields}, an index from 0 to {len(options) - 1}, or a letter",
            "text": f"one of {options}",
            "name": fields[2:] or "the name of a field: `choices` is a list of fields",
            "index": f"an index from 0 to {len(options) - 1}",
            "index_from_1": f"an index from 1 to {len(options)}",
            "letter": f"a letter from A to {ascii_uppercase[: len(options)][-1]}",
        }
        return excerpt(ways[self.gold_is], at_most=300)

    def _advice(self, gold: FieldValue, options: Sequence[str]) -> str:
        if self.gold_is is None and str(gold) == str(len(options)):
            return "if the file counts from 1, `gold_is: index_from_1` in the task; else correct the item"
        if isinstance(gold, list):
            return "write one option: a choice has one right answer"
        return ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
