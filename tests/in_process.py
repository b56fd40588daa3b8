"""The command line, called in this process: a start of its own takes seconds."""

import signal
import sys

import pytest

from crossbreed.cli import main


def exit_code_of(*arguments: object) -> int:
    """Calls the command line, and leaves signals and arguments as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["crossbreed", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    for number, handler in before.items():
        signal.signal(number, handler)
    return int(ended.value.code or 0)
