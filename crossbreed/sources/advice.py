"""Commands that messages print: each can be pasted into a shell as it stands, whatever a folder is called."""

import json
import os
import shlex


def literal(value: str | os.PathLike[str]) -> str:
    """Returns a text as a Python literal in double quotes: inside a command's single quotes no shell looks into it."""
    return json.dumps(os.fspath(value), ensure_ascii=False)


def python_command(*statements: str) -> str:
    r"""Returns the command that runs Python statements.

    >>> python_command("import sys", 'print("$HOME")')
    'python -c \'import sys; print("$HOME")\''
    """
    return f"python -c {shlex.quote('; '.join(statements))}"
