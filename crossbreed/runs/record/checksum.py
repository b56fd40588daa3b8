"""Checksums of a journal's lines: each covers its line and, through the line before, all of the journal up to there.

So a flipped bit, a line that is missing, doubled or moved, and lines of another writer are noticed. A line has its
checksum under `clock`, since it covers times too. Lines of schema 1, at the beginning of a journal, have none.
"""

import json
import re
from hashlib import sha256

from crossbreed.types import canonical_json

KEY = "check"
_EMPTY = f'"{KEY}":""'.encode()
_WRITTEN = re.compile(rf'"{KEY}":"([0-9a-f]{{16}})"'.encode())


def sealed(value: dict[str, object], *, after: bytes) -> bytes:
    """Returns the line of a record, without its end.

    Args:
        value: The record as JSON; `clock`, if it has one, is a mapping.
        after: The line before; empty for the first.
    """
    clock = value.get("clock")
    assert clock is None or isinstance(clock, dict)
    blank = canonical_json(value | {"clock": {**(clock or {}), KEY: ""}}).encode()
    written = f'"{KEY}":"{_check(blank, after=after)}"'.encode()
    return blank.replace(_EMPTY, written, 1)  # keys are sorted: no name that looks alike comes before `clock`


def is_right(line: bytes, *, after: bytes) -> bool:
    """Returns whether a line has a checksum that is right; `after` is the line before, or empty."""
    for found in _WRITTEN.finditer(line):  # more than one if a task has this name
        if found[1].decode() == _check(line[: found.start()], _EMPTY, line[found.end() :], after=after):
            return True
    return False


def is_sealed(line: bytes) -> bool:
    """Returns whether a line, which is a JSON object, has a checksum at all."""
    clock = json.loads(line).get("clock")
    return isinstance(clock, dict) and KEY in clock


def _check(*blank: bytes, after: bytes) -> str:
    found = sha256(after)
    for part in (b"\n", *blank):
        found.update(part)
    return found.hexdigest()[:16]
