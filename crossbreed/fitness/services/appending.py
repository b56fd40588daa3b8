"""Files of lines that are only ever appended to; a line that a kill or a full disk has torn is as good as none."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from crossbreed.types import canonical_json


def key_of(question: Mapping[str, Any]) -> str:
    """Returns the hash under which the answer to a question is found."""
    return sha256(canonical_json(question).encode()).hexdigest()[:32]


def append_line(file: Path, value: Mapping[str, Any]) -> None:
    """Appends a line of JSON in one write. What cannot be written is asked again one day, and no run ends for it."""
    with suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            # A line begins with its own newline: it stands alone behind a torn one.
            os.write(descriptor, f"\n{json.dumps(value, ensure_ascii=True, allow_nan=False)}\n".encode())
        finally:
            os.close(descriptor)


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a file's lines, and passes over what is none."""
    with suppress(OSError):
        yield from _objects(file.read_bytes())


def lines_of(file: Path, begin: int) -> tuple[list[dict[str, Any]], int]:
    """Returns the objects of the whole lines behind a place, for a file that others append to, and where they end."""
    try:
        with file.open("rb") as lines:
            lines.seek(begin)
            content = lines.read()
    except OSError:
        return [], begin
    whole = content[: content.rfind(b"\n") + 1]
    return list(_objects(whole)), begin + len(whole)


def _objects(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value
