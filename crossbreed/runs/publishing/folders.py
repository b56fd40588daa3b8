"""Output folders that appear complete or not at all: temporary siblings, renamed when everything is written."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from crossbreed.durable import sync
from crossbreed.errors import InputError, MachineError


def require_unused(out: Path) -> None:
    """Raises InputError unless `out` is absent or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            "the output folder is in use",
            expected="a folder that does not exist, or an empty one",
            got=f"{sum(1 for _ in out.iterdir())} entries" if out.is_dir() else "a file",
            where=str(out),
            fix="choose another --out",
        )


@contextmanager
def new_folders(num_bytes: Mapping[Path, int]) -> Iterator[dict[Path, Path]]:
    """Yields temporary siblings to write in; on success all are renamed to the folders, otherwise all are removed.

    A crash between two of the renames leaves some folders complete, and the other siblings for the next attempt to
    remove.

    Args:
        num_bytes: Folder, absent or empty -> number of bytes to write. All are on one disk.

    Raises:
        InputError: a folder cannot be used, or the disk has no room for all of them.
        MachineError: a folder could not be renamed; then none is.
    """
    partial = {out: out.absolute().with_name(f".{out.absolute().name}.crossbreed-partial") for out in num_bytes}
    for out in partial:
        require_unused(out)
    try:
        for out, folder in partial.items():
            _make_anew(folder, out)
        _require_room(next(iter(partial.values())), sum(num_bytes.values()))
        yield partial
        _rename(partial)
    finally:
        for folder in partial.values():
            shutil.rmtree(folder, ignore_errors=True)


def _make_anew(folder: Path, out: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)  # left by a killed publish
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"the output folder cannot be written: {error.strerror}", where=str(out), fix="choose another --out"
        ) from None


def _rename(partial: Mapping[Path, Path]) -> None:
    try:
        with ExitStack() as undo:
            for out, folder in partial.items():
                folder.rename(out)
                undo.callback(out.rename, folder)
            undo.pop_all()
        for parent in {folder.parent for folder in partial.values()}:
            sync(parent)
    except OSError as error:
        raise MachineError(f"writing {', '.join(map(str, partial))} failed: {error}") from error


def _require_room(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            "not enough disk space for the output",
            expected=f"{num_bytes / 1e9:.2f} GB free",
            got=f"{free / 1e9:.2f} GB",
            where=str(folder.parent),
            fix="free some space, or choose an --out on another disk",
        )
