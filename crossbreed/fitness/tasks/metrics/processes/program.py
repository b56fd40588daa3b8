"""Runs one program that a model wrote; run as a script by `metrics.programs`. This is no sandbox.

It keeps accidents in: processor time, memory and files are limited, new files go to an empty folder, there is no
network and no other process. Code that is meant to do harm can get out of this.
"""

import os
import resource
import sys
from contextlib import suppress
from ctypes import CDLL
from typing import Any

_REFUSED = (
    "socket.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.kill",
    "pty.spawn",
    "subprocess.Popen",
)
"""Audit events that end in a PermissionError, and those that begin so."""
_OF_A_PATH = (
    "os.chmod",
    "os.chown",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
)
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
"""Of Linux's `unshare`."""


def main() -> None:
    """Reads a program from the standard input; writes the token of the first argument if it ends well."""
    token, seconds, memory_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    program = sys.stdin.read()
    folder = os.path.realpath(os.getcwd())
    out = os.dup(1)
    sink = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(sink, stream)
    with suppress(OSError, AttributeError):  # where the kernel does not allow it, the audit hook stays
        CDLL(None).unshare(_NEW_NETWORK) == 0 or CDLL(None).unshare(_NEW_USER | _NEW_NETWORK)
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 1 << 24),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))

    def fence(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED):
            raise PermissionError(event)
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            if writes and isinstance(path, str | bytes):
                within(path)
        elif event in _OF_A_PATH:
            for path in arguments:
                if isinstance(path, str | bytes):
                    within(path)

    def within(path: str | bytes) -> None:
        real = os.path.realpath(os.fsdecode(path))
        if real != os.devnull and not real.startswith(folder + os.sep):
            raise PermissionError(real)

    sys.addaudithook(fence)
    exec(compile(program, "answer.py", "exec"), {"__name__": "__main__"})
    os.write(out, token.encode())


if __name__ == "__main__":
    main()
