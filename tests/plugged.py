"""Packages that bring parts: modules on disk, announced by entry points as pip would write them; commands there."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

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


def write_package(
    folder: Path, name: str, *, files: Mapping[str, str], entry_points: Mapping[str, Mapping[str, str]]
) -> Path:
    """Writes what an installed package looks like, and returns the folder for `sys.path`.

    Args:
        folder: Where; several packages may share one.
        name: Of the distribution; its version is 1.0.
        files: File -> its text.
        entry_points: Group -> name -> `module:attribute`.
    """
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in found.items()) for group, found in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for file, text in files.items():
        (folder / file).write_text(text)
    return folder


def call_each(*commands: Sequence[object], **environment: str) -> list[tuple[int, str, str]]:
    """Runs commands of crossbreed in one process of their own; returns exit code, stdout and stderr of each."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([[*map(str, command)] for command in commands])],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]
