"""Files of items: JSON Lines, JSON, CSV and Parquet. Values keep their meaning; what is wrong is said with its line."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn, TypeAlias

from crossbreed.errors import Collector, InputError, Mistakes, excerpt, first_line, require
from crossbreed.fitness.item_mistakes import ItemMistakes
from crossbreed.fitness.items import OWN_IDS, Item, content_of
from crossbreed.fitness.values import FieldValue, Written
from crossbreed.json_text import parse_json
from crossbreed.text_files import NotRegularError, require_regular
from crossbreed.types import content_id

_MAX_DIGITS = 4000
"""Longer integers are no answers; Python refuses to print those above 4300 digits."""
_MAX_CELL = 2**31 - 1
"""The csv module's own limit of 131,072 characters is less than a long text."""
_DELIMITERS = (",", ";", "\t", "|")
_FIRST_LINES = 20
"""Of a CSV file, which tell what divides its cells."""

_DELETE = "delete one: a duplicate could be in two splits at once"
Record: TypeAlias = tuple[int, dict[str, FieldValue]]
"""(line or row number, fields)."""


class BadItems(Mistakes):
    """Something is wrong with some of a task's items; the others could be loaded."""

    def __init__(self, errors: Sequence[InputError], legible: tuple[Item, ...]) -> None:
        """Says what is wrong; a single error, as that error does."""
        super().__init__(errors)
        self.legible = legible
        if len(errors) == 1:
            one = errors[0]
            self.problem, self.expected, self.got, self.where, self.fix = (
                one.problem,
                one.expected,
                one.got,
                one.where,
                one.fix,
            )

    def __str__(self) -> str:
        return str(self.errors[0]) if len(self.errors) == 1 else super().__str__()

    def __reduce__(self) -> tuple[object, ...]:
        return BadItems, (self.errors, ())


def require_items(mistakes: Collector, items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Returns the items; raises BadItems with those that are legible if a mistake was noted."""
    if mistakes.errors:
        raise BadItems(mistakes.errors, items)
    return items


def legible_items(load: Callable[[], tuple[Item, ...]], mistakes: Collector) -> tuple[Item, ...]:
    """Returns what can be loaded, and notes what is wrong with the rest."""
    try:
        return load()
    except InputError as error:
        mistakes.note(error)
        return error.legible if isinstance(error, BadItems) else ()


def load_items(path: str | Path) -> tuple[Item, ...]:
    """Reads a `.jsonl`, `.csv` or `.parquet` file, one item per line (row), or a list of objects in a `.json` file.

    Raises:
        BadItems: lines of it cannot be read, or two items have the same id or the same content.
        InputError: the file cannot be read, or there are no items.
        MissingExtra: a Parquet file without pyarrow.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        _fail("items cannot be read from this kind of file", path, expected=" or ".join(_READERS), got=path.name)
    mistakes = ItemMistakes(of=str(path))
    try:
        require_regular(path)
        records = list(reader(path, mistakes))
    except OSError as error:
        _fail(f"the items cannot be read: {error.strerror or error}", path, fix="correct the task's `items`")
    except UnicodeDecodeError as error:
        _fail("the items are not text", path, expected="UTF-8", got=str(error), fix="save the file as UTF-8")
    except NotRegularError as error:
        _fail(
            "the items are no file", path, expected="a regular file", got=str(error), fix="correct the task's `items`"
        )
    if not records and not mistakes.errors:
        got = "nothing but a header" if path.read_bytes().strip() else "an empty file"
        _fail("there are no items", path, expected="at least one item", got=got, fix="add items")
    mistakes.among = len(records) + mistakes.count
    return require_items(mistakes, tuple(_distinct(records, path, mistakes)))


def _distinct(records: Iterable[Record], path: Path, mistakes: Collector) -> Iterator[Item]:
    lines_of_ids: dict[str, int] = {}
    lines_of_contents: dict[str, int] = {}
    for line, fields in records:
        with mistakes.noted():
            item_id, text = _identified(fields, path, line)
            for what, value, lines, got, fix in (
                ("content", content_id(text), lines_of_contents, text, _DELETE),
                ("id", item_id, lines_of_ids, item_id, OWN_IDS),  # of the content, where none is given
            ):
                if value in lines:
                    _fail(
                        f"two items have the same {what}",
                        path,
                        lines[value],
                        line,
                        got=f"`{excerpt(got, at_most=80)}` twice",
                        fix=fix,
                    )
                lines[value] = line
            yield Item(id=item_id, fields=fields, where=f"{path}, line {line}")


def _identified(fields: Mapping[str, FieldValue], path: Path, line: int) -> tuple[str, str]:
    """Returns the id and the content of an item as texts."""
    given = fields.get("id")
    try:
        text = content_of(fields)
        item_id = content_id(text) if given is None else str(given)
        content_id(item_id)
    except (TypeError, ValueError, RecursionError) as error:
        _fail(
            "an item holds a value that is not JSON",
            path,
            line,
            expected="text, numbers, lists",
            got=first_line(error),
            fix="write it as a text",
        )
    if isinstance(given, list | dict):
        got = excerpt(item_id, at_most=80)
        _fail("an item's id is not a text", path, line, expected="a text or a number", got=got)
    return item_id, text


def _read_jsonl(path: Path, mistakes: Collector) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                with mistakes.noted():
                    yield number, _object(line, path, number)


def _object(line: str, path: Path, number: int) -> dict[str, FieldValue]:
    try:
        fields = parse_json(line, max_digits=_MAX_DIGITS, parse_float=_written)
    except json.JSONDecodeError as error:
        got = f"{error.msg}, at column {error.colno}"
        _fail("a line is not JSON", path, number, got=got, fix="write one JSON object per line")
    except UnicodeEncodeError as error:
        _fail("a line holds a text that is not JSON", path, number, got=first_line(error), fix="correct the line")
    except ValueError as error:
        _fail("a line cannot be read", path, number, got=first_line(error), fix="correct the line")
    if not isinstance(fields, dict):
        got = excerpt(line.strip(), at_most=60)
        _fail("a line is not a JSON object", path, number, expected='{"question": ..., ...}', got=got)
    return fields


def _read_json(path: Path, mistakes: Collector) -> Iterator[Record]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        found = parse_json(text, max_digits=_MAX_DIGITS, parse_float=_written)
    except json.JSONDecodeError as error:
        got = f"{error.msg}, at column {error.colno}"
        _fail("the file is not JSON", path, error.lineno, got=got, fix="name JSON Lines `.jsonl`")
    except ValueError as error:
        _fail("the file cannot be read", path, got=first_line(error), fix="correct it")
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        got = excerpt(text.strip(), at_most=60)
        fix = "write the list alone into the file, or one item a line into a .jsonl file"
        _fail("the file holds no list of items", path, expected='[{"question": ..., ...}, ...]', got=got, fix=fix)
    yield from enumerate(found, start=1)


def _written(text: str) -> Written:
    return Written(float(text), text)


def _read_csv(path: Path, mistakes: Collector) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = _delimiter(list(islice(file, _FIRST_LINES)))
        file.seek(0)
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        limit = csv.field_size_limit(_MAX_CELL)
        try:
            numbered = [(rows.line_num, row) for row in rows if row]
        except csv.Error as error:
            _fail("the file is not CSV", path, rows.line_num, got=str(error), fix='double a quote inside quotes: ""')
        finally:
            csv.field_size_limit(limit)
    if not numbered:
        return
    first, whole = numbered[0], list[tuple[int, list[str]]]()
    for line, row in numbered[1:]:
        with mistakes.noted():
            _require_cells(row, first[1], path, line, delimiter=delimiter)
            whole.append((line, row))
    names = _columns(path, first, whole)
    for line, row in whole:
        yield line, {name: row[place] for place, name in names.items()}


def _delimiter(lines: Sequence[str]) -> str:
    """Returns the mark of the header that divides the first rows into as many cells; of none, the first in it."""
    found = [mark for mark in _DELIMITERS if mark in "".join(lines[:1])]
    return next((mark for mark in found if len(set(map(len, _rows(lines, mark)))) == 1), next(iter(found), ","))


def _rows(lines: Sequence[str], mark: str) -> list[list[str]]:
    """Returns the rows of a file's first lines, but the last where it may be cut."""
    try:
        rows = [row for row in csv.reader(lines, delimiter=mark) if row]
    except csv.Error:
        return []
    return rows[:-1] if len(lines) == _FIRST_LINES else rows


def _require_cells(row: list[str], names: list[str], path: Path, line: int, *, delimiter: str) -> None:
    if len(row) == len(names):
        return
    text, marks = delimiter.join(row), [mark for mark in _DELIMITERS if mark != delimiter]
    others = [mark for mark in marks if len(names) > 1 and [len(names)] == [*map(len, _rows([text], mark))]]
    _fail(
        "a row does not have as many cells as the header",
        path,
        line,
        expected=excerpt(f"{_cells(names)}: {', '.join(names)}", at_most=200),
        got=excerpt(f"{_cells(row)}: {row}", at_most=200),
        fix=f"divide header and rows alike: the header is divided by {delimiter!r}, this row by {others[0]!r}"
        if others
        else "quote cells that hold the delimiter",
    )


def _cells(row: Sequence[str]) -> str:
    return f"{len(row)} cell" + "s" * (len(row) != 1)


def _columns(path: Path, header: tuple[int, list[str]], rows: Sequence[tuple[int, list[str]]]) -> dict[int, str]:
    """Returns place -> name of the columns that have one; the first may lack it if it is the index of pandas."""
    line, names = header
    if twice := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
        _fail("two columns have the same name", path, line, got=f"`{twice[0]}` twice", fix="rename or remove one")
    for place, name in enumerate(names):
        cells = [row[place] for _, row in rows]
        if not name and any(cells) and not (place == 0 and all(cell.isdecimal() for cell in cells)):
            _fail(
                "a column has no name",
                path,
                line,
                expected="a name for every column",
                got=f"column {place + 1} of {len(names)}, which holds {excerpt(cells[0], at_most=120)!r}",
                fix="name it in the first line",
            )
    return {place: name for place, name in enumerate(names) if name}


def _read_parquet(path: Path, mistakes: Collector) -> Iterator[Record]:
    require("pyarrow", extra="parquet")
    from crossbreed.fitness.parquet_files import read_rows

    yield from read_rows(path)


_READERS: Mapping[str, Callable[[Path, Collector], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
ENDINGS = tuple(_READERS)
"""Of the files that `load_items` reads."""


def _fail(problem: str, path: Path, *lines: int, expected: str = "", got: str = "", fix: str = "") -> NoReturn:
    where = str(path)
    if lines:
        where += f", line{'s' * (len(lines) > 1)} {' and '.join(map(str, lines))}"
    raise InputError(problem, expected=expected, got=got, where=where, fix=fix)
