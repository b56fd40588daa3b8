"""Writing files so that they survive a power cut, and folders to write in that a killed process leaves to the next."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

_BLOCK_BYTES = 1 << 20
_SCRATCH = ".crossbreed-scratch-"


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


@contextmanager
def own_folder(path: Path) -> Iterator[None]:
    """Has an empty folder to write in, and removes it in the end unless it was renamed.

    One that a killed process has left is emptied. A process that lives has its folder locked, where the file system
    can.

    Raises:
        BlockingIOError: another process is writing in it.
        OSError: it cannot be made.
    """
    descriptor, _ = _taken(path)
    try:
        for left in path.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield
    finally:
        if _is_at(path, descriptor):  # else it was renamed, and another process may have made this one
            shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yields a new folder in another, and removes it in the end, and before that what killed processes have left there.

    Raises:
        OSError: it cannot be made.
    """
    for left in parent.glob(f"{_SCRATCH}*"):
        with suppress(OSError):
            _remove_left(left)
    path = parent / f"{_SCRATCH}{uuid4().hex[:12]}"
    with own_folder(path):
        yield path


def _remove_left(path: Path) -> None:
    descriptor, is_locked = _taken(path)
    try:
        if is_locked:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)


def _taken(path: Path) -> tuple[int, bool]:
    """Makes a folder if need be, and locks it; returns its descriptor, and False if the file system has no locks."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        is_locked = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:
            pass
        if _is_at(path, descriptor):
            return descriptor, is_locked
        os.close(descriptor)  # removed meanwhile, by who had the lock before


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False
