"""The example package, and commands that run where it is installed."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = Path(__file__).parent / "package"


COMMANDS = """
import contextlib, io, json, sys
from crossbreed.cli import main

done = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["crossbreed", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    done.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""


def crossbreed(*commands: Sequence[object], path: Path | None = None) -> list[tuple[int, str, str]]:
    """Runs commands of crossbreed in one process of their own; returns exit code, stdout and stderr of each."""
    arguments = [[*map(str, command)] for command in commands]
    done = python("-c", COMMANDS, json.dumps(arguments), path=path)
    assert done.returncode == 0, done.stderr
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


def python(*arguments: object, path: Path | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs Python in a process that also sees the packages in `path`."""
    folders = [str(ROOT), *([str(path)] if path else [])]
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(folders)},
        timeout=300,
    )
