"""Files of items: JSON Lines, JSON, CSV and Parquet. Values keep their meaning; what is wrong is said with its line."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn, TypeAlias

from crossbreed.errors import InputError, first_line, require
from crossbreed.fitness.items import Item, content_of
from crossbreed.fitness.values import FieldValue, Written
from crossbreed.json_text import parse_json
from crossbreed.text_files import NotRegularError, require_regular
from crossbreed.types import content_id

_MAX_DIGITS = 4000
"""Longer integers are no answers; Python refuses to print those above 4300 digits."""
_MAX_CELL = 2**31 - 1
"""The csv module's own limit of 131,072 characters is less than a long text."""

Record: TypeAlias = tuple[int, dict[str, FieldValue]]
"""(line or row number, fields)."""


def load_items(path: str | Path) -> tuple[Item, ...]:
    """Reads a `.jsonl`, `.csv` or `.parquet` file, one item per line (row), or a list of objects in a `.json` file.

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
        require_regular(path)
        records = list(reader(path))
    except OSError as error:
        _fail(f"the items cannot be read: {error.strerror or error}", path, fix="correct the task's `items`")
    except UnicodeDecodeError as error:
        _fail("the items are not text", path, expected="UTF-8", got=str(error), fix="save the file as UTF-8")
    except NotRegularError as error:
        _fail(
            "the items are no file", path, expected="a regular file", got=str(error), fix="correct the task's `items`"
        )
    if not records:
        _fail("there are no items", path, expected="at least one line", got="an empty file")
    return tuple(_distinct(records, path))


def _distinct(records: Iterable[Record], path: Path) -> Iterator[Item]:
    lines_of_ids: dict[str, int] = {}
    lines_of_contents: dict[str, int] = {}
    for line, fields in records:
        given = fields.get("id")
        try:
            text = content_of(fields)
            content = content_id(text)
            item_id = content if given is None else str(given)
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
            _fail("an item's id is not a text", path, line, expected="a text or a number", got=item_id[:80])
        for what, value, lines, got in (
            ("content", content, lines_of_contents, text[:80]),  # of which the id is made where there is none
            ("id", item_id, lines_of_ids, item_id[:80]),
        ):
            if value in lines:
                _fail(
                    f"two items have the same {what}",
                    path,
                    lines[value],
                    line,
                    got=f"`{got}` twice",
                    fix="delete one: a duplicate could be in two splits at once",
                )
            lines[value] = line
        yield Item(id=item_id, fields=fields, where=f"{path}, line {line}")


def _read_jsonl(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                fields = parse_json(line, max_digits=_MAX_DIGITS, parse_float=_written)
            except json.JSONDecodeError as error:
                _fail("a line is not JSON", path, number, got=str(error), fix="write one JSON object per line")
            except UnicodeEncodeError as error:
                _fail(
                    "a line holds a text that is not JSON", path, number, got=first_line(error), fix="correct the line"
                )
            except ValueError as error:
                _fail("a line cannot be read", path, number, got=first_line(error), fix="correct the line")
            if not isinstance(fields, dict):
                _fail("a line is not a JSON object", path, number, expected='{"question": ..., ...}', got=line[:60])
            yield number, fields


def _read_json(path: Path) -> Iterator[Record]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        found = parse_json(text, max_digits=_MAX_DIGITS, parse_float=_written)
    except json.JSONDecodeError as error:
        _fail("the file is not JSON", path, error.lineno, got=error.msg, fix="name JSON Lines `.jsonl`")
    except ValueError as error:
        _fail("the file cannot be read", path, got=first_line(error), fix="correct it")
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        _fail("the file holds no list of items", path, expected='[{"question": ..., ...}, ...]', got=text.strip()[:60])
    yield from enumerate(found, start=1)


def _written(text: str) -> Written:
    return Written(float(text), text)


def _read_csv(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        delimiter = next((mark for mark in (",", ";", "\t", "|") if mark in header), ",")
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
    names = _columns(path, *numbered)
    for line, row in numbered[1:]:
        yield line, {name: row[place] for place, name in names.items()}


def _columns(path: Path, header: tuple[int, list[str]], *rows: tuple[int, list[str]]) -> dict[int, str]:
    """Returns place -> name of the columns that have one; the first may lack it if it is the index of pandas."""
    line, names = header
    for number, row in rows:
        if len(row) != len(names):
            _fail(
                "a row does not have as many cells as the header",
                path,
                number,
                expected=f"{len(names)} cells: {', '.join(names)}"[:200],
                got=f"{len(row)} cells: {row}"[:200],
                fix="quote cells that hold the delimiter",
            )
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
                got=f"column {place + 1} of {len(names)}, which holds {cells[0]!r}"[:200],
                fix="name it in the first line",
            )
    return {place: name for place, name in enumerate(names) if name}


def _read_parquet(path: Path) -> Iterator[Record]:
    require("pyarrow", extra="parquet")
    from crossbreed.fitness.parquet_files import read_rows

    yield from read_rows(path)


_READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
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
