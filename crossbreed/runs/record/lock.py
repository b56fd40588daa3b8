"""The one writer of a journal: a lock on the journal's own file, and other means where files cannot be locked."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from crossbreed.errors import InputError

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
"""What `flock` fails with if another process has the lock; any other failure says that it is not supported."""


class Lock:
    """The right to write to a journal, until it is released or the process dies."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Takes the lock.

        Args:
            path: The journal.
            descriptor: The journal, opened.

        Raises:
            InputError: another driver has it.
        """
        self._owner = path.with_name("owner.json")
        self._descriptor, self._owns = descriptor, False
        for _ in range(20):  # `show` holds the lock for a moment
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # freed by the kernel, even after SIGKILL
                return
            except OSError as error:
                if error.errno not in _TAKEN:
                    self._own()
                    return
            time.sleep(0.05)
        raise _in_use(path.parent, "it is locked", "wait for it or stop it: two drivers would write to one journal")

    def close(self) -> None:
        """Gives the right back, for which the journal must still be open."""
        if self._owns:
            self._owner.unlink(missing_ok=True)
            self._owns = False
        else:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _own(self) -> None:
        """Writes who owns the journal, where the file system has no locks: processes that are gone own nothing."""
        ours = json.dumps(this_process()).encode()
        for _ in range(2):
            try:
                descriptor = os.open(self._owner, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                _require_gone(self._owner)
                self._owner.unlink(missing_ok=True)
                continue
            with os.fdopen(descriptor, "wb") as file:
                file.write(ours)
            self._owns = True
            return
        raise _in_use(self._owner.parent, "another has just begun", "wait for it or stop it")


def is_locked(path: Path) -> bool:
    """Returns whether a driver has a journal open."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        owner = path.with_name("owner.json")
        return error.errno in _TAKEN or (owner.exists() and not _is_gone(owner))
    return False


def this_process() -> dict[str, str | int]:
    """Returns what tells this process from all others, as JSON."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}


def _began(pid: int) -> str:
    """Returns a text that another process with the same number does not have; empty if there is no such process."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _is_gone(owner: Path) -> bool:
    """Returns whether the process that wrote an owner file ran on this machine and has ended."""
    try:
        return has_ended(json.loads(owner.read_text()))
    except FileNotFoundError:
        return True
    except (OSError, ValueError, LookupError, TypeError):
        return False


def has_ended(process: Mapping[str, Any]) -> bool:
    """Returns whether a process ran on this machine and has ended; of other machines, nothing is known.

    Args:
        process: What `this_process` returned there.

    Raises:
        LookupError, TypeError, ValueError: it is something else.
    """
    return bool(process["host"] == socket.gethostname() and process["began"] != _began(int(process["pid"])))


def _require_gone(owner: Path) -> None:
    if not _is_gone(owner):
        found = owner.read_text(errors="replace")[:200]
        fix = f"stop it; if its machine is gone, remove {owner}"
        raise _in_use(owner.parent, f"it belongs to {found or 'an unknown process'}", fix)


def _in_use(folder: Path, got: str, fix: str) -> InputError:
    return InputError("another driver is using this run folder", got=got, where=str(folder), fix=fix)
