"""What a metric is: a function of a generated text and a gold answer, and what has to be known of it."""

from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

from pydantic import JsonValue

from crossbreed.errors import require
from crossbreed.fitness.items import Item
from crossbreed.fitness.protocol import Surroundings
from crossbreed.fitness.values import FieldValue

EXTRA = "metrics"
"""The extra that brings the libraries of metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The value of a metric that asks somebody, who may have none."""

    value: float | None
    """None: no verdict; the item abstains."""
    why: str = ""
    """Why there is none."""
    agrees: bool | None = None
    """Whether all that it was asked about the text was answered alike; None: it was asked once."""


class Abstention(Exception):
    """There is no verdict on a text; the message says why."""


@runtime_checkable
class Asker(Protocol):
    """The setting of a metric that asks somebody about a text: its function returns a Verdict."""

    @property
    def who(self) -> str:
        """Who is asked, for reports."""
        ...

    @property
    def num_calls(self) -> int:
        """How often it asks about one text."""
        ...

    @property
    def concurrency(self) -> int:
        """How many texts it may ask about at a time."""
        ...

    @property
    def most_abstentions(self) -> float:
        """The share of a task's items without a verdict above which a candidate could not be measured."""
        ...

    def begun(self, around: Surroundings, closing: ExitStack) -> Self:
        """Returns a setting that can ask; called once in a process, before the first text.

        Args:
            around: What a run lets it use.
            closing: Ends what it has opened, when all is asked.
        """
        ...

    def question(self, text: str, item: Item, *, task: str) -> str:
        """Returns what it asks about a text; raises InputError if an item cannot be asked about."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Compares a generated text with the gold answer.

    >>> from crossbreed.fitness import METRICS
    >>> METRICS["contains"]("It is Paris, of course.", "Paris")
    True
    """

    function: Callable[..., bool | float | Verdict]
    """Takes the text, the gold and, if it has one, its setting. Its docstring describes the metric."""
    higher_is_better: bool = True
    """Whether larger values are better."""
    takes_pattern: bool = False
    """Whether its setting is a regular expression with a group, which it takes compiled: the task's `pattern`."""
    setting: Any = None  # a type that pydantic can parse
    """The type of its setting, `metric: {NAME: SETTING}`; None: it has none."""
    needs_gold: bool = False
    """Whether a text without the gold in it scores 0: a gold that is cut by a stop or `max_tokens` is then refused."""
    by_value: bool = False
    """Whether it compares values, so that any notation of a number in the gold will do."""
    uses_gold: bool = True
    """False: it looks at the text alone, and a task with no other metric needs no gold."""
    takes_item: bool = False
    """Whether the function also takes the item's fields, last."""
    reads: Callable[[Any], tuple[str, ...]] | None = None  # takes its setting
    """Returns the fields that every item must have for it."""
    readable: Callable[[str], bool] | None = None
    """Whether a gold can be compared with anything. None: the gold itself must score above 0."""
    key: Callable[..., Hashable] | None = None
    """What it compares of a text, None where there is no such thing: texts with equal keys are one vote. Takes the text
    and the setting. None: texts cannot be counted as votes."""
    check: Callable[[Any], None] | None = None  # takes its setting
    """Raises InputError for a setting that cannot work; called before a run."""
    identity: Callable[[Any], JsonValue] | None = None  # takes its setting
    """Returns what of its setting must not change on resume, for one that names a file. None: all of it."""
    needs: tuple[str, ...] = ()
    """Modules that it imports when it is called, and that the core does not depend on."""
    extra: str = EXTRA
    """The extra that brings them."""

    def __call__(self, text: str, gold: str, *further: Any) -> bool | float | Verdict:  # its setting, the item's fields
        """Returns the value of a text."""
        return self.function(text, gold, *further)

    @property
    def has_setting(self) -> bool:
        """Whether a spec gives it more than its name."""
        return self.takes_pattern or self.setting is not None

    def can_match(self, gold: str) -> bool:
        """Returns whether some text can score above 0; tests the gold itself, unless the metric has a setting."""
        if not self.uses_gold:
            return True
        if self.has_setting or not self.higher_is_better:
            return gold.strip() != ""
        return _matches_itself(self, gold)

    def require(self) -> None:
        """Raises MissingExtra unless what it needs is installed."""
        for module in self.needs:
            require(module, extra=self.extra)


@lru_cache(maxsize=1 << 16)
def _matches_itself(metric: Metric, gold: str) -> bool:
    if metric.readable is not None:
        return metric.readable(gold)
    found = metric(gold, gold)
    return isinstance(found, Verdict) or found > 0


Fields: TypeAlias = Mapping[str, FieldValue]
"""The fields of an item."""
