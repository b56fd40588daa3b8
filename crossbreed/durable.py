"""Writing files so that they survive a power cut."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_BLOCK_BYTES = 1 << 20


def sync(path: Path) -> None:
    """Returns once a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names `path` in an OSError that names no file: a write to a full disk says only that there is no space."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


def _umask() -> int:
    """Returns the process's mask, which can only be read by setting it; Linux shows it."""
    status = Path("/proc/self/status")
    if status.is_file():
        shown = next((line for line in status.read_text().splitlines() if line.startswith("Umask:")), None)
        if shown is not None:
            return int(shown.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def written_as(name: str) -> str:
    """Returns the name that a file was to get, if it is what a kill leaves before it has its place; else its own.

    >>> written_as(".phase.json-a1b2c3d4"), written_as("phase.json")
    ('phase.json', 'phase.json')
    """
    final, dash, _ = name.removeprefix(".").rpartition("-")
    return final if dash and name.startswith(".") else name


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Yields a file that takes the place of `path` in one step, once it is on disk."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with naming(path), os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())  # mkstemp's own is 0600, whatever the user asked for
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces `path` in one step: readers see the old or the new content, even after a power cut."""
    with _replacing(path) as file:
        file.write(content)


def copy_atomically(source: Path, path: Path) -> None:
    """Replaces `path` with a copy of another file in one step; several processes may do so together."""
    with source.open("rb") as whole, _replacing(path) as file:
        shutil.copyfileobj(whole, file, _BLOCK_BYTES)
