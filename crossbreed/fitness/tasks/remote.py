"""Tasks that the provider of the weights asks and scores itself: neither items nor texts leave its service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import PrivateAttr

from crossbreed.errors import InputError
from crossbreed.fitness.items import Item, ReportItems, SearchItems, SelectionItems, Split
from crossbreed.fitness.requests import Request, Response
from crossbreed.fitness.tasks.config import TaskConfig
from crossbreed.fitness.tasks.task import Answer
from crossbreed.parsing import any_of, suggestion
from crossbreed.types import SplitName


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedItems:
    """What an engine says of a task of its own."""

    higher_is_better: bool
    count: int
    """Number of its items."""
    items: tuple[Item, ...] | None
    """Their ids; None: only means over them are told."""
    splits: Mapping[SplitName, int] | None = None
    """Where only means are told: split -> number of its items, each of which has a mean; None: there are no splits."""


class RemoteTask(TaskConfig):
    """A task of the provider's own, by its name there: the engine scores its items itself, and tells the values.

    Its items are split as those of any task; they have ids, and nothing else is seen of them. Where the provider tells
    nothing but means, the splits are the provider's own, and the mean of each is one value.
    """

    kind: Literal["remote"]
    minimize: bool = False
    """Whether smaller values are better. The provider says so too: it is refused if this says something else."""
    _items: tuple[Item, ...] = PrivateAttr(default=())
    _split: Split | None = PrivateAttr(default=None)

    @property
    def split(self) -> Split | None:
        """The provider's own split, where nothing is told but the mean of each part; None: items are told."""
        return self._split

    @property
    def asks(self) -> bool:
        """False: the engine asks."""
        return False

    @property
    def higher_is_better(self) -> bool:
        """As the spec says; see Kind."""
        return not self.minimize

    def take(self, served: Mapping[str, ServedItems], engine: str) -> None:
        """Takes the items' ids from what the engine serves.

        Args:
            served: The tasks that the engine scores itself.
            engine: Its kind, for messages.

        Raises:
            InputError: it has no such task, or tells no values of items, or better is the other way there.
        """
        where = f"task `{self.name}`"
        if (found := served.get(self.name)) is None:
            raise InputError(
                f"the engine `{engine}` has no task `{self.name}` of its own",
                expected=any_of(served) if served else "an engine behind which a provider scores tasks (`kind: api`)",
                where=where,
                fix=suggestion(self.name, served) or "use another kind of task, or ask the provider for the right",
            )
        if found.higher_is_better is self.minimize:
            raise InputError(
                "the provider says that the other values are better",
                expected=f"minimize: {str(not found.higher_is_better).lower()}",
                got=f"minimize: {str(self.minimize).lower()}",
                where=where,
                fix="correct `minimize` in the task",
            )
        if found.items is not None:
            self._items = found.items
            return
        if found.splits is None:
            raise InputError(
                f"the provider tells only the mean over the {found.count} items of a task",
                expected="a value for each item, or a mean for each of search, selection and report",
                got=f"one value of weight {found.count}",
                where=where,
                fix="ask the provider for splits (`serve.split`), or for values of items (`serve.detail: items`)",
            )
        if self.stratify is not None:
            raise InputError(
                "the provider splits the items of this task itself",
                expected="no `stratify`",
                got=f"stratify: {self.stratify}",
                where=where,
                fix="remove it",
            )
        means = {name: self._mean(name, count) for name, count in found.splits.items()}
        self._items = tuple(means.values())
        self._split = Split(
            search=SearchItems((means["search"],)),
            select=SelectionItems((means["select"],)),
            report=ReportItems((means["report"],)),
        )

    def _mean(self, split: SplitName, count: int) -> Item:
        """Returns what stands for the items of a split."""
        return Item(id=split, fields={"task": self.name, "split": split, "count": count}, count=count)

    def load_items(self) -> tuple[Item, ...]:
        """Returns the ids that were taken."""
        return self._items

    def requests(self, item: Item) -> Sequence[Request]:
        """Returns nothing: the engine asks."""
        return ()

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Is not called: the engine scores."""
        raise NotImplementedError("a remote task is scored by its engine")
