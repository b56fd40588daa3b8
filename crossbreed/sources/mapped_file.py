"""A file as it was when it was mapped, so that its content is never taken for that of another file at the same place.

Size and modification time alone do not tell two files apart: archives, containers and `cp -p` give a new file an old
time. The operating system sets the time of the last change of the inode itself.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from crossbreed.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """Which file is at a path, and when it last changed."""

    inode: int
    num_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Returns the state of the file that `path` leads to; raises OSError if there is none."""
        found = os.stat(path)
        return cls(
            inode=found.st_ino,
            num_bytes=found.st_size,
            modified_ns=found.st_mtime_ns,
            changed_ns=found.st_ctime_ns,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedFile:
    """A file that is mapped into memory."""

    path: Path
    state: FileState
    """Its state when it was mapped."""

    def __str__(self) -> str:
        """Returns the path."""
        return str(self.path)

    @property
    def now(self) -> FileState | None:
        """The state of what is at the path now; None if nothing is."""
        try:
            return FileState.of(self.path)
        except OSError:
            return None

    @property
    def was_relabelled(self) -> bool:
        """Whether only the inode's own time differs, as after `chmod` or a new hard link: or after an old time was set.

        Whether the content is the same is then for its reader to say.
        """
        now = self.now
        return now is not None and now != self.state == replace(now, changed_ns=self.state.changed_ns)

    def require_unchanged(self) -> None:
        """Raises InputError if the file has changed since it was mapped: a mapped file's content changes with it."""
        if self.now != self.state:
            raise self.changed

    @property
    def changed(self) -> InputError:
        """The error for a file that changed; no fault of the machine's, so that it ends a run at once."""
        return InputError(
            "a file of the sources was changed while it was in use",
            expected="the file as it was when it was opened",
            got="it is gone" if self.now is None else "another size, time or file",
            where=str(self.path),
            fix="put it back and run the same command, which goes on; with other sources, choose another --out",
        )
