"""A file as it was when it was mapped, so that its content is never taken for that of another file at the same place.

Size and modification time alone do not tell two files apart: archives, containers and `cp -p` give a new file an old
time. The operating system sets the time of the last change of the inode itself.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from crossbreed.errors import MachineError


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
    def has_changed(self) -> bool:
        """Whether another file is at the path now, or none, or the same with another content."""
        try:
            return FileState.of(self.path) != self.state
        except OSError:
            return True

    def require_unchanged(self) -> None:
        """Raises MachineError if the file has changed since it was mapped: a mapped file's content changes with it."""
        if self.has_changed:
            raise MachineError(
                f"{self.path} has changed since it was opened, so the weights read from it are not those of one model; "
                "leave the sources alone while they are in use, and run the same command again"
            )
