"""Equality of mathematical expressions, by math-verify: in a process beside ours, since some take for ever."""

import atexit
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Lock

from crossbreed.errors import EngineError
from crossbreed.fitness.tasks.metrics.metric import Metric
from crossbreed.fitness.tasks.metrics.numerals import only_number
from crossbreed.fitness.tasks.metrics.processes import expressions
from crossbreed.fitness.tasks.metrics.words import folded


def math(text: str, gold: str) -> bool:
    r"""The last mathematical expression of the text equals the gold, by math-verify: \frac{1}{2} is 0.5, 1,000 is 1000.

    What is not decided in 5 s of processor time is not equal.
    """
    if folded(text) == folded(gold) != "":
        return can_be_read(gold)
    return _BESIDE.tells(text, gold)


def can_be_read(gold: str) -> bool:
    """Returns whether a gold is a mathematical expression."""
    return only_number(gold) is not None or _BESIDE.tells(None, gold)


class Beside:
    """The process, started at the first question and again after one that ended it."""

    def __init__(self, *, seconds: int = 5) -> None:
        """Starts nothing yet.

        Args:
            seconds: The most processor time of one question.
        """
        self._seconds = seconds
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0

    def tells(self, text: str | None, gold: str) -> bool:
        """Returns whether a text equals a gold; without a text, whether the gold can be read.

        Raises:
            EngineError: the process does not start, or ends for another reason than its limit of time.
        """
        with self._lock:
            process = self._started()
            assert process.stdin, "it is a pipe"
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps([text, gold]) + "\n")
                process.stdin.flush()
            said = self._line(process)
            if said:
                return bool(json.loads(said))
            code = self.close()
        if code == -signal.SIGPROF:
            return False
        raise EngineError(f"the process that compares mathematical expressions ended with code {code}")

    def close(self) -> int | None:
        """Ends the process; returns its exit code."""
        process, self._process = self._process, None
        if process is None or self._pid != os.getpid():
            return None
        with suppress(OSError):
            process.communicate()
        return process.returncode

    def _started(self) -> "subprocess.Popen[str]":
        if self._process is None or self._pid != os.getpid():
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(expressions.__file__)), str(self._seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for us
            )
            self._pid = os.getpid()
            if self._line(self._process).strip() != expressions.READY:
                raise EngineError(f"the process that compares mathematical expressions ended with code {self.close()}")
        return self._process

    def _line(self, process: "subprocess.Popen[str]") -> str:
        assert process.stdout, "it is a pipe"
        return process.stdout.readline()


_BESIDE = Beside()
atexit.register(_BESIDE.close)

MATH = Metric(function=math, needs=("math_verify",), by_value=True, readable=can_be_read)
