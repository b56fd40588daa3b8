"""Items: the questions of a task, split once, so that no winner is scored on what selected it.

Search, selection and report items are three types: a function that takes `SearchItems` cannot be passed report items.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, TypeAlias, get_args

from pydantic import Field

from crossbreed.config import Config
from crossbreed.errors import InputError, excerpt, first_line
from crossbreed.fitness.values import FieldValue, is_unicode
from crossbreed.parsing import any_of
from crossbreed.randomness import spawn
from crossbreed.types import SplitName, canonical_json, content_id

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
"""In the order in which they are taken from the items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question, with all its fields in the file."""

    id: str
    """The file's `id`, or the hash of the fields."""
    fields: Mapping[str, FieldValue]
    where: str = field(default="", compare=False)
    """The file and the line it is from, for messages; empty if it was made in Python."""
    count: int = 1
    """How many questions it stands for: several, where their asker tells nothing but the mean of their values."""
    splits: tuple[SplitName, ...] = field(default=SPLITS, compare=False)
    """The splits that may have it: not all, where parts of a data set are meant for some of them."""

    def place(self, task: str, name: str = "") -> str:
        """Returns where a field of the item stands, for messages."""
        return ", ".join(filter(None, (f"task `{task}`", name and f"field `{name}`", self.where)))


CONTENT_ID = re.compile("[0-9a-f]{12}")
"""The id of an item whose file gives none: the hash of its content, the same in every file."""

OWN_IDS = "they are different questions: give each an `id` of its own, or call this field otherwise"
"""What to do about two items of one id."""


def content_of(fields: Mapping[str, FieldValue]) -> str:
    """Returns what the hash of an item's content is of: all fields but its id."""
    return canonical_json({key: value for key, value in fields.items() if key != "id"})


def looks_hashed(item: Item) -> bool:
    """Returns whether an item's own id looks like the hash of its content, and is not."""
    return bool(CONTENT_ID.fullmatch(item.id)) and item.id != content_id(content_of(item.fields))


def check_items(items: Sequence[Item], *, task: str) -> None:
    """Checks items that may be made in Python as those of a file are: ids that can be compared, contents that are JSON.

    Raises:
        InputError: there is none, an id is no text or stands twice, or a field's value cannot be written to a file.
    """
    if not items:
        raise InputError("a task has no items", expected="at least one item", where=f"task `{task}`")
    seen = set[str]()
    for number, item in enumerate(items):
        item_id: object = item.id
        if not isinstance(item_id, str) or not item_id or not is_unicode(item_id):
            raise InputError(
                "an item's id is not a text",
                expected="a Unicode text, not empty",
                got=f"{item_id!r:.120} ({type(item_id).__name__})",
                where=", ".join((item.place(task), f"item {number}")),
                fix="make the id with `str(...)`" if isinstance(item_id, int) else "give the item a text as its id",
            )
        if item_id in seen:
            raise InputError(
                "two items of a task have the same id",
                expected="a unique id for each item",
                got=f"`{excerpt(item_id, at_most=80)}` twice",
                where=item.place(task),
                fix="give each item an `id` of its own",
            )
        seen.add(item_id)
        for name, value in item.fields.items():
            _check_field(item, name, value, task=task)


def _check_field(item: Item, name: object, value: FieldValue, *, task: str) -> None:
    try:
        canonical_json({name: value}).encode()
        wrong = "" if isinstance(name, str) else f"the name {name!r:.80} ({type(name).__name__})"
    except (TypeError, ValueError, RecursionError) as error:
        wrong = f"{value!r:.80} ({first_line(error)})"
    if wrong:
        raise InputError(
            f"item `{item.id}` holds a value that is not JSON",
            expected="Unicode texts, finite numbers, lists and objects of them",
            got=wrong,
            where=item.place(task, str(name)[:80]),
            fix="write it as a text",
        )


@dataclass(frozen=True, slots=True)
class _Items:
    items: tuple[Item, ...]

    @property
    def count(self) -> int:
        """The number of questions."""
        return sum(item.count for item in self.items)


class SearchItems(_Items):
    """The items on which the search scores candidates."""


class SelectionItems(_Items):
    """The items on which the winner is selected among the finalists of the search."""


class ReportItems(_Items):
    """The items of the published score: never used by search or selection."""


AnyItems: TypeAlias = SearchItems | SelectionItems | ReportItems

Share: TypeAlias = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]


class SplitConfig(Config):
    """The items of each task in each split: a count (48), or a fraction of the file (0.2)."""

    search: Share
    """Items for scoring every candidate."""
    select: Share
    """Items for selecting the winner among the finalists."""
    report: Share
    """Items for the reported scores of the winner and the baselines, used once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A task's items, split."""

    search: SearchItems
    select: SelectionItems
    report: ReportItems


def split_items(
    items: Sequence[Item],
    config: SplitConfig,
    *,
    seed: int,
    task: str,
    stratify: str | None = None,
    where: str = "fitness.split",
) -> Split:
    """Splits the items into three disjoint sets: the same ones for the same seed and items, in any file order.

    Two tasks with the same items are split identically, so that no item is used for search by one and for the report by
    the other. With `stratify`, every set has its share of each value of that field, to within one item.

    Raises:
        InputError: too few items, or one lacks the `stratify` field.
    """
    sizes = {split: _size(getattr(config, split), sum(split in item.splits for item in items)) for split in SPLITS}
    ordered = _offered(items, seed=seed, task=task, stratify=stratify)
    found, left = dict[SplitName, tuple[Item, ...]](), list(ordered)
    for split, size in sizes.items():
        found[split] = tuple([item for item in left if split in item.splits][:size])
        taken = {item.id for item in found[split]}
        left = [item for item in left if item.id not in taken]
    if any(len(found[split]) < size for split, size in sizes.items()):
        wanted = " + ".join(f"{size} {split}" for split, size in sizes.items())
        of_parts = ", ".join(f"{sum(split in item.splits for item in items)} for {split}" for split in SPLITS)
        raise InputError(
            f"task `{task}` has too few items for the split",
            expected=f"{wanted} = {sum(sizes.values())} items",
            got=f"{len(items)} items" + f": {of_parts}" * any(item.splits != SPLITS for item in items),
            where=where,
            fix="lower the counts, or add items",
        )
    return Split(
        search=SearchItems(found["search"]),
        select=SelectionItems(found["select"]),
        report=ReportItems(found["report"]),
    )


def _size(share: int | float, num_items: int) -> int:
    return share if isinstance(share, int) else max(1, int(share * num_items + 1e-9))


QuestionsOf: TypeAlias = Callable[[Item], Collection[str]]
"""Item -> what a model is asked by it: items that share one of these texts must not be in two splits."""


def check_disjoint(splits: Mapping[str, Split], questions: Mapping[str, QuestionsOf] = MappingProxyType({})) -> None:
    """Checks that no item is in the search or selection split of one task and the report split of another.

    Args:
        splits: Task name -> its split items.
        questions: Task name -> what is compared besides the items' contents.

    Raises:
        InputError: there is one; the message names the items and both tasks.
    """

    def keys(task: str, item: Item) -> list[str]:
        return [content_of(item.fields), *(questions[task](item) if task in questions else ())]

    seen = {
        key: (task, item)
        for task, split in splits.items()
        for item in (*split.search.items, *split.select.items)
        for key in keys(task, item)
    }
    for task, split in splits.items():
        for item in split.report.items:
            for key in keys(task, item):
                if key in seen:
                    other, used = seen[key]
                    raise InputError(
                        f"task `{task}` reports on an item that task `{other}` uses for search or selection",
                        expected="items that ask for something else",
                        got=f"item `{item.id}`, which asks the same as `{used.id}`",
                        where="; ".join(dict.fromkeys(filter(None, (item.where, used.where)))) or "fitness.tasks",
                        fix="give both tasks the same file and the same `stratify`, or remove the item from one file",
                    )


def _offered(items: Sequence[Item], *, seed: int, task: str, stratify: str | None) -> tuple[Item, ...]:
    """Returns the items shuffled; with strata, so that every stretch of the order contains each in proportion."""
    by_id = sorted(items, key=lambda item: item.id)
    ids = content_id(canonical_json([item.id for item in by_id]))  # not the task's name: two tasks may share a file
    shuffled = [by_id[i] for i in spawn(seed, "split", ids).permutation(len(by_id))]
    if stratify is None:
        return tuple(shuffled)
    strata = [canonical_json(field_of(item, stratify, task=task)) for item in shuffled]
    sizes, seen = Counter(strata), Counter[str]()
    positions = []
    for stratum in strata:
        positions.append((seen[stratum] + 0.5) / sizes[stratum])
        seen[stratum] += 1
    return tuple(shuffled[i] for i in sorted(range(len(shuffled)), key=positions.__getitem__))


def field_of(item: Item, name: str, *, task: str) -> FieldValue:
    """Returns a field of an item.

    Raises:
        InputError: the item has no such field; the message lists its fields.
    """
    if name not in item.fields:
        raise no_field(item, name, task=task)
    return item.fields[name]


def no_field(item: Item, name: str, *, task: str, also: str = "") -> InputError:
    """Returns the error for a field that an item does not have; it lists those that it has.

    Args:
        item: The item.
        name: The field.
        task: The task that names it.
        also: What else may be wrong, for the advice.
    """
    return InputError(
        f"item `{item.id}` has no field `{name}`",
        expected=f"the field `{name}` in every item",
        got=any_of(sorted(item.fields)) if item.fields else "no fields",
        where=item.place(task),
        fix=_other_spelling(name, item.fields) or f"correct the field's name in the task, or the item{also}",
    )


def _other_spelling(name: str, names: Iterable[str]) -> str:
    """Returns what to write where a field differs in case or in blanks at its ends alone; else nothing."""
    found = next((other for other in names if other.strip().casefold() == name.strip().casefold()), None)
    if found is None:
        return ""
    return f"the file has it as {canonical_json(found)}: write it so in the task, or rename it there"
