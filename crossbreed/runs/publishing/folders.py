"""Output folders that appear complete or not at all: temporary siblings, renamed when everything is written."""

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from crossbreed.durable import own_folder, sync
from crossbreed.errors import InputError, MachineError


def require_unused(out: Path) -> None:
    """Raises InputError unless `out` is absent or an empty folder."""
    try:
        is_free = not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir()))
    except OSError as error:
        raise _unwritable(error, out) from None
    if is_free and os.path.ismount(out):
        raise InputError(
            "the output folder is a disk's own",
            expected="a folder that can be renamed",
            got="a mount point",
            where=str(out),
            fix=f"choose a folder inside: --out {shlex.quote(str(out / 'merged'))}",
        )
    if not is_free:
        raise InputError(
            "the output folder is in use",
            expected="a folder that does not exist, or an empty one",
            got=f"{sum(1 for _ in out.iterdir())} entries"
            if out.is_dir()
            else "a file"
            if out.exists()
            else f"a link to {os.readlink(out)}, which does not exist",
            where=str(out),
            fix="choose another --out",
        )


@contextmanager
def new_folders(num_bytes: Mapping[Path, int]) -> Iterator[dict[Path, Path]]:
    """Yields temporary siblings to write in; on success all are renamed to the folders, otherwise all are removed.

    A crash between two of the renames leaves some folders complete, and the other siblings for the next attempt to
    empty.

    Args:
        num_bytes: Folder, absent or empty -> number of bytes to write. All are on one disk.

    Raises:
        InputError: a folder cannot be used, another process is writing it, or the disk has no room for all of them.
        MachineError: a folder could not be renamed; then none is.
    """
    for out in num_bytes:
        require_unused(out)
    real = {out: out.resolve() for out in num_bytes}  # of a link or `.`, the folder that is meant, on its own disk
    partial = {out: folder.with_name(f".{folder.name}.crossbreed-partial") for out, folder in real.items()}
    with ExitStack() as stack:
        for out, folder in partial.items():
            _take(stack, folder, out)
        for out in num_bytes:
            require_unused(out)  # nor has another process finished it meanwhile
        _require_room(next(iter(partial.values())), sum(num_bytes.values()))
        yield partial
        _rename({real[out]: folder for out, folder in partial.items()})


def _take(stack: ExitStack, folder: Path, out: Path) -> None:
    """Makes a temporary sibling, which this process alone writes: two that share it would publish a mixture."""
    try:
        stack.enter_context(own_folder(folder))
    except BlockingIOError:
        raise InputError(
            "another process is writing this output folder",
            expected="one process for each folder",
            got=f"{folder}, which is locked",
            where=str(out),
            fix="wait for it or stop it, or choose another --out",
        ) from None
    except OSError as error:
        raise _unwritable(error, out) from None


def _unwritable(error: OSError, out: Path) -> InputError:
    return InputError(
        f"the output folder cannot be written: {error.strerror}", where=str(out), fix="choose another --out"
    )


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
