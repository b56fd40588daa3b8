"""The example package, and commands that run where it is installed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from plugged import call_each

ROOT = Path(__file__).parents[2]
PACKAGE = Path(__file__).parent / "package"


def crossbreed(*commands: Sequence[object], path: Path | None = None) -> list[tuple[int, str, str]]:
    """Calls `call_each` where a process also sees the packages in `path`."""
    return call_each(*commands, PYTHONPATH=_search_path(path))


def python(*arguments: object, path: Path | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs Python in a process that also sees the packages in `path`."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment, "PYTHONPATH": _search_path(path)},
        timeout=300,
    )


def _search_path(path: Path | None) -> str:
    return os.pathsep.join([str(ROOT), *([str(path)] if path else [])])
