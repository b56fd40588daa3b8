"""Rows of Parquet files as items' fields: what a cell means by its column's type, not by the Python object made of it.

A column of numbers tells their values and not how they were written. So a number has a text only where one is likely:
46.0 may stand for 46, 1.50 of a column with two digits for 1.5, and 2e-05 for 0.00002. A date has the text of ISO 8601.
What has no text at all, such as times and images, is an object, which is refused where it would be shown.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet, types

from crossbreed.errors import InputError, first_line
from crossbreed.fitness.values import FieldValue, Written

_FLOATS = {"halffloat": np.float16, "float": np.float32, "double": np.float64}
"""Arrow's name -> the type whose shortest text is meant."""
_AS_IT_IS = (types.is_boolean, types.is_integer, types.is_string, types.is_large_string, types.is_string_view)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, FieldValue]]]:
    """Yields the number and the fields of each row, from 1.

    Raises:
        InputError: the file is not Parquet, holds a value that has no meaning, or two columns have one name.
    """
    try:
        table = parquet.read_table(path)
        names = table.column_names
        columns = [[_field(cell) for cell in column] for column in table.columns]
    except UnicodeDecodeError:
        raise
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise InputError("the file is not Parquet", got=first_line(error), where=str(path)) from None
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(
            "two columns have the same name",
            got=f"`{twice[0]}` twice",
            where=str(path),
            fix="rename or remove one",
        )
    for number, row in enumerate(zip(*columns, strict=True), start=1):
        yield number, dict(zip(names, row, strict=True))


def _field(cell: Any) -> FieldValue:  # a scalar of pyarrow, which has no types
    kind = cell.type
    if isinstance(cell, pyarrow.ExtensionScalar | pyarrow.DictionaryScalar | pyarrow.RunEndEncodedScalar):
        return _field(cell.value) if cell.is_valid else None
    if not cell.is_valid:
        return None
    if any(is_kind(kind) for is_kind in _AS_IT_IS):
        as_it_is: FieldValue = cell.as_py()
        return as_it_is
    if types.is_floating(kind):
        return _number(float(cell.as_py()), str(_FLOATS[str(kind)](cell.as_py())))
    if types.is_decimal(kind):
        return _decimal(cell.as_py())
    if types.is_struct(kind):
        return {name: _field(inner) for name, inner in cell.items()}
    if isinstance(cell, pyarrow.ListScalar | pyarrow.LargeListScalar | pyarrow.FixedSizeListScalar):
        return [_field(inner) for inner in cell.values]
    if types.is_date(kind):
        with suppress(ValueError, OverflowError):  # beyond the year 9999
            return str(cell.as_py())
    content = cell.as_py() if isinstance(cell, pyarrow.BinaryScalar) else str(cell.value).encode()
    return {str(kind): blake2b(content, digest_size=16).hexdigest()}


def _number(value: float, text: str) -> Written:
    return Written(value, "" if value.is_integer() or "e" in text else text)


def _decimal(value: Decimal) -> FieldValue:
    if value.as_tuple().exponent == 0:
        return int(value)
    text = f"{value:f}"
    return Written(float(value), "" if "." not in text or text.endswith("0") else text)
