"""A task: a kind, which turns an item into requests and responses into a value, and its items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from crossbreed.figures import Figure
from crossbreed.fitness.items import Item
from crossbreed.fitness.protocol import Handle
from crossbreed.fitness.requests import Loglikelihood, Request, Response
from crossbreed.fitness.values import as_shown
from crossbreed.types import canonical_json, content_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result for one item."""

    value: float
    """Finite: a model whose log-probabilities are not is INVALID before a task judges it."""
    text: str
    """The generated text or chosen option, for display."""
    margin: float | None = None
    """The nats by which the answer's log-likelihood exceeds what another answer needs to be taken; None: not known."""
    thinking: int | None = None
    """The tokens that were cut from the answer as thinking; None: the task cuts nothing."""
    length: float | None = None
    """The tokens of the answer, as `answer_length` counts them, on average over samples; None: it is no text."""
    abstains: str = ""
    """Why a judge gave no verdict: then `value` is NaN, and does not count. Empty: there is a value."""
    agrees: bool | None = None
    """Whether a judge that was asked several times said the same each time; None: none was."""
    entries: Mapping[str, object] = field(default_factory=dict)
    """Metric that only all items together have -> what it needs of this one; see `HasFigures`."""


class Kind(Protocol):
    """A kind of task: its requests and its scoring. Kinds that a spec can name are settings classes: `TaskConfig`."""

    @property
    def name(self) -> str:
        """The task's name in the spec."""
        ...

    @property
    def metric_name(self) -> str:
        """The name of the value on a published model card, for example `exact_match`."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values are better."""
        ...

    @property
    def chunk(self) -> int:
        """The number of items that share one call of the engine; fixed, since it can change answers."""
        ...

    @property
    def stratify(self) -> str | None:
        """The field by whose values the splits are stratified."""
        ...

    def requests(self, item: Item) -> Sequence[Request]:
        """Returns the requests for an item.

        Raises:
            InputError: the item lacks a field, or no response could match its gold answer.
        """
        ...

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Scores the responses to `requests(item)`, in the same order."""
        ...

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns the correct answer as a request: the gold answer after the prompt, or the text itself.

        Its mean log-probability per token is smooth in the weights even if the task's value is a step function: slopes
        are derivatives of it, and Grams are collected on it.
        """
        ...

    def shown(self, item: Item) -> str:
        """Returns the gold answer for display; empty if there is none."""
        ...


@runtime_checkable
class ScoresChunks(Kind, Protocol):
    """A kind that scores many items at once, as a function of the user's may want to."""

    def score_chunk(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[Answer]:
        """Scores a chunk of items, each with its responses; an item's value depends on its own responses alone."""
        ...


@runtime_checkable
class HasFigures(Kind, Protocol):
    """A kind with metrics that only all items together have."""

    def figures(self, entries: Mapping[str, Mapping[str, object]]) -> Mapping[str, Figure]:
        """Returns them, of item id -> the `entries` of its answer."""
        ...


@runtime_checkable
class AsksItself(Kind, Protocol):
    """A kind of which some tasks make no requests (`asks`): they ask the candidate themselves."""

    @property
    def asks(self) -> bool:
        """Whether a task makes requests like any other."""
        ...

    def evaluate(self, handle: Handle, items: Sequence[Item]) -> tuple[list[Answer], list[Response]]:
        """Asks and scores a chunk of items; returns the answers, and all responses that it got, for their cost."""
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
        """Whether larger values are better."""
        return self.kind.higher_is_better

    @property
    def contents_id(self) -> str:
        """Hash of the items as the model is shown them, independent of their order: they must be the same on resume."""
        return content_id(canonical_json(sorted((item.id, as_shown(dict(item.fields))) for item in self.items)))

    def requests(self, item: Item) -> Sequence[Request]:
        """Returns the requests for an item."""
        return self.kind.requests(item)

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Scores the responses to `requests(item)`."""
        return self.kind.score(item, responses)

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns the correct answer as a request; see `Kind`."""
        return self.kind.calibration(item)
