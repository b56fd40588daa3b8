"""Items: the questions of a task, read from a file and split once, so that no winner is scored on what selected it.

Search, selection and report items are three types: a function that takes `SearchItems` cannot be passed report items.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn, TypeAlias

from pydantic import Field, JsonValue

from crossbreed.config import Config
from crossbreed.errors import InputError, require
from crossbreed.randomness import spawn
from crossbreed.types import canonical_json, content_id

FieldValue: TypeAlias = JsonValue
"""The value of an item's field; in a CSV file, always text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question, with all its fields in the file."""

    id: str
    """The file's `id`, or the hash of the fields."""
    fields: Mapping[str, FieldValue]


@dataclass(frozen=True, slots=True)
class _Items:
    items: tuple[Item, ...]


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


def load_items(path: str | Path) -> tuple[Item, ...]:
    """Reads a `.jsonl`, `.csv` or `.parquet` file, one item per line (row).

    Raises:
        InputError: the file or a line of it cannot be read, two items have the same id or the same content, or there
            is none.
        MissingExtra: a Parquet file without pyarrow.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        _fail("items cannot be read from this kind of file", path, expected=" or ".join(_READERS), got=path.name)
    try:
        records = list(reader(path))
    except OSError as error:
        _fail(f"the items cannot be read: {error.strerror or error}", path, fix="correct the task's `items`")
    except UnicodeDecodeError as error:
        _fail("the items are not text", path, expected="UTF-8", got=str(error))
    if not records:
        _fail("there are no items", path, expected="at least one line", got="an empty file")
    return tuple(_distinct(records, path))


def split_items(
    items: Sequence[Item], config: SplitConfig, *, seed: int, task: str, stratify: str | None = None
) -> Split:
    """Splits the items into three disjoint sets: the same ones for the same seed and items, in any file order.

    Two tasks with the same items are split identically, so that no item is used for search by one and for the report by
    the other. With `stratify`, every set has its share of each value of that field, to within one item.

    Raises:
        InputError: too few items, or one lacks the `stratify` field.
    """
    num_search, num_select, num_report = (
        share if isinstance(share, int) else max(1, int(share * len(items) + 1e-9))
        for share in (config.search, config.select, config.report)
    )
    needed = num_search + num_select + num_report
    if needed > len(items):
        raise InputError(
            f"task `{task}` has too few items for the split",
            expected=f"{num_search} search + {num_select} select + {num_report} report = {needed} items",
            got=f"{len(items)} items",
            where="fitness.split",
            fix="lower the counts, or add items",
        )
    ordered = _offered(items, seed=seed, task=task, stratify=stratify)
    return Split(
        search=SearchItems(ordered[:num_search]),
        select=SelectionItems(ordered[num_search : num_search + num_select]),
        report=ReportItems(ordered[num_search + num_select : needed]),
    )


def check_disjoint(splits: Mapping[str, Split]) -> None:
    """Checks that no item is in the search or selection split of one task and the report split of another (law 6).

    Args:
        splits: Task name -> its split items.

    Raises:
        InputError: there is one; the message names the item and both tasks.
    """
    seen = {
        _content(item): (task, item.id)
        for task, split in splits.items()
        for item in (*split.search.items, *split.select.items)
    }
    for task, split in splits.items():
        for item in split.report.items:
            if found := seen.get(_content(item)):
                raise InputError(
                    f"task `{task}` reports on an item that task `{found[0]}` uses for search or selection",
                    got=f"item `{item.id}`, with the same content as `{found[1]}`",
                    where="fitness.tasks",
                    fix="give both tasks the same file and the same `stratify`, or remove the item from one file",
                )


def _content(item: Item) -> str:
    return canonical_json({key: value for key, value in item.fields.items() if key != "id"})


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
        raise InputError(
            f"item `{item.id}` has no field `{name}`",
            expected=f"the field `{name}` in every item",
            got=", ".join(sorted(item.fields)) or "no fields",
            where=f"task `{task}`",
            fix="correct the field's name in the task, or the item",
        )
    return item.fields[name]


Record: TypeAlias = tuple[int, dict[str, FieldValue]]
"""(line or row number, fields)."""


def _distinct(records: Iterable[Record], path: Path) -> Iterator[Item]:
    lines_of_ids: dict[str, int] = {}
    lines_of_contents: dict[str, int] = {}
    for line, fields in records:
        try:
            content = content_id(canonical_json({k: v for k, v in fields.items() if k != "id"}))
        except (TypeError, ValueError) as error:
            _fail("an item holds a value that is not JSON", path, line, expected="text, numbers, lists", got=str(error))
        given = fields.get("id")
        item_id = content if given is None else str(given)
        for what, value, lines in (("id", item_id, lines_of_ids), ("content", content, lines_of_contents)):
            if value in lines:
                _fail(
                    f"two items have the same {what}",
                    path,
                    lines[value],
                    line,
                    got=f"`{item_id}` twice",
                    fix="delete one: a duplicate could be in two splits at once",
                )
            lines[value] = line
        yield Item(id=item_id, fields=fields)


def _read_jsonl(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                _fail("a line is not JSON", path, number, got=str(error), fix="write one JSON object per line")
            if not isinstance(fields, dict):
                _fail("a line is not a JSON object", path, number, expected='{"question": ..., ...}', got=line[:60])
            yield number, fields


def _read_csv(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, restkey="")
        for row in rows:
            if "" in row or None in row.values():
                _fail(
                    "a row does not have as many cells as the header",
                    path,
                    rows.line_num,
                    got=str(list(row.values()))[:80],
                )
            yield rows.line_num, dict(row)


def _read_parquet(path: Path) -> Iterator[Record]:
    require("pyarrow", extra="parquet")
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        _fail("the file is not Parquet", path, got=str(error).splitlines()[0])
    yield from enumerate(rows, start=1)


_READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _fail(problem: str, path: Path, *lines: int, expected: str = "", got: str = "", fix: str = "") -> NoReturn:
    where = str(path)
    if lines:
        where += f", line{'s' * (len(lines) > 1)} {' and '.join(map(str, lines))}"
    raise InputError(problem, expected=expected, got=got, where=where, fix=fix)
