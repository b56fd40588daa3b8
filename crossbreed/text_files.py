"""Text files that people and strangers write: regular files of a bounded size, or a message."""

import os
import stat
from pathlib import Path

from crossbreed.errors import InputError


def read_text(path: Path, *, what: str, max_bytes: int) -> str:
    """Returns the text of a file.

    Args:
        path: The file; a link to one will do, a pipe or device not: whoever opens those may wait for ever.
        what: The name of the file in messages.
        max_bytes: The size of the largest that makes sense.

    Raises:
        InputError: it cannot be read, is larger, or is no UTF-8 text.
    """
    try:
        return regular_text(path, max_bytes=max_bytes)
    except OSError as error:
        got = (error.strerror or str(error)).lower()
    except ValueError as error:
        got = str(error)
    raise InputError(f"{what} cannot be read", expected="a text file in UTF-8", got=got, where=str(path)) from None


class NotRegularError(ValueError):
    """What is at a path is a folder, a pipe, a socket or a device: whoever opens those may wait for ever."""


def require_regular(path: Path) -> None:
    """Raises NotRegularError for what is no regular file, before anybody opens it; OSError if there is nothing."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise NotRegularError("a folder" if stat.S_ISDIR(mode) else "not a regular file")


def regular_text(path: Path, *, max_bytes: int) -> str:
    """Returns the text of a regular file; raises OSError or ValueError."""
    require_regular(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer does not block then
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if state.st_size > max_bytes:
            raise ValueError(f"{state.st_size:,} bytes, more than {max_bytes:,}")
        return file.read(max_bytes + 1).decode()
