"""The service's log: one JSON object a line, of who asked how much of which model. No prompt, no answer, no key."""

import json
import logging
import traceback
from datetime import UTC, datetime

NAME = "crossbreed.service"
_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Writes a record and the fields that its `extra` adds."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        fields = {name: value for name, value in vars(record).items() if name not in _OWN and value is not None}
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **fields,
        }
        return json.dumps(line, default=str, ensure_ascii=False)


def log_to_stderr() -> logging.Handler:
    """Has the service's log written to stderr, and to no other log; returns the handler."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    log = logging.getLogger(NAME)
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    return handler


def frames_of(error: BaseException) -> list[str]:
    """Returns where an exception came from, innermost last, without its message."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]
