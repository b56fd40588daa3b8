"""Programs that a model wrote, and the tests that they are to pass. They are run: never without the user's word."""

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import Field

from crossbreed.config import Config
from crossbreed.fitness.tasks.metrics.metric import Fields, Metric
from crossbreed.fitness.tasks.metrics.processes import program

_FENCED = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


class Tests(Config):
    """How the metric `passes_tests` runs what a model wrote, in Python. There is no sandbox (docs/tasks.md)."""

    tests: str
    """The field with the code that is run behind the model's: it fails by raising, as an `assert` does."""
    allow: Literal["running_generated_code"]
    """Says that you know: what the model writes is run on this machine."""
    before: str | None = None
    """The field with code that is run before the model's: the beginning of a function that it was asked to complete."""
    seconds: Annotated[int, Field(ge=1, le=600)] = 5
    """Processor time of one program; with waiting, ten times as long."""
    memory_mb: Annotated[int, Field(ge=64)] = 1024
    """Memory of one program."""


def passes_tests(text: str, gold: str, setting: Tests, fields: Fields) -> bool:
    """The text, a Python program or one in a fenced block, passes the item's tests; it is run to find out."""
    code = (_FENCED.findall(text) or [text])[-1]
    before = "" if setting.before is None else _text(fields, setting.before)
    return _ends_well(f"{before}{code}\n{_text(fields, setting.tests)}\n", setting)


def _ends_well(source: str, setting: Tests) -> bool:
    """Runs a program in a process and an empty folder of its own; returns whether it came to its end."""
    token = secrets.token_hex()
    with tempfile.TemporaryDirectory(prefix="crossbreed-program-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", program.__file__, token, str(setting.seconds), str(setting.memory_mb << 20)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(source.encode(), timeout=10 * setting.seconds)
        except subprocess.TimeoutExpired:
            said = b""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return said == token.encode()


def _text(fields: Fields, name: str) -> str:
    """Returns the code in a field; of a list, each on a line."""
    value = fields[name]
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _read(setting: Tests) -> tuple[str, ...]:
    return (setting.tests,) if setting.before is None else (setting.before, setting.tests)


PASSES_TESTS = Metric(function=passes_tests, setting=Tests, uses_gold=False, takes_item=True, reads=_read)
