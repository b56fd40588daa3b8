"""The service's log: one JSON object a line, of who asked how much of which model. No prompt, no answer, no key."""

import json
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from starlette.requests import Request

_NAMES = {"crossbreed.service": logging.INFO, "uvicorn.error": logging.WARNING}
"""Log -> from which level on it is written."""
_FIELDS = "crossbreed_fields"


class JsonLines(logging.Formatter):
    """Writes a record with the fields that `said` adds, and no others: libraries add their own to every record."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        fields = getattr(record, _FIELDS, {})
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **{name: value for name, value in fields.items() if value is not None},
        }
        return json.dumps(line, default=str, ensure_ascii=False)


def said(**fields: object) -> dict[str, object]:
    """Returns what a record's `extra` is, for `JsonLines` to write."""
    return {_FIELDS: fields}


def note(request: Request, **facts: object) -> None:
    """Adds to a request's line in the log; of a text no more than its beginning."""
    request.state.facts.update(
        {name: value[:100] if isinstance(value, str) else value for name, value in facts.items()}
    )


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Has what the service logs in the block written to stderr, and to no other log."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logs = {logging.getLogger(name): level for name, level in _NAMES.items()}
    for log, level in logs.items():
        log.setLevel(level)
        log.propagate = False
        log.addHandler(handler)
    try:
        yield
    finally:
        for log in logs:
            log.removeHandler(handler)
            log.propagate = True


def frames_of(error: BaseException) -> list[str]:
    """Returns where an exception came from, innermost last, without its message."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]
