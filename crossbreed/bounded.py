"""Calls of what a stranger wrote, such as chat templates and the patterns of tokenizers, that end within a limit.

Such a call may take for ever, or all memory, inside a library's native code, where no handler of Python's is run. So it
is made in a child process, which the kernel ends. The child is a fork: it starts in milliseconds with all that is
loaded, and whoever wants nothing but the result pays no more than that.
"""

import os
import resource
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from traceback import format_exc
from typing import TypeAlias, TypeVar

from crossbreed.errors import CrossbreedError, InputError, first_line

Result = TypeVar("Result")
Begin: TypeAlias = Callable[[str], None]
"""Says what is looked at next, whose time begins anew."""

MOST_SECONDS = 30.0
"""Processor time for each thing that is looked at; a long text takes a hundredth of a second."""
WAITS = 20
"""Times that, by the clock: a busy machine computes slowly, and a child that waits for a lock does not compute."""
MOST_BYTES = 4 << 30
"""Memory beyond what the process has already; a tokenizer takes a tenth of it."""


def bounded(call: Callable[[Begin], Result], *, what: str, where: str, fix: str) -> Result:
    """Returns the result of a call, or raises its exception, both of which must be picklable.

    Args:
        call: Is called in a child process: what it changes is changed there alone.
        what: What it runs, for messages.
        where: Where that is from.
        fix: What to do if it does not end.

    Raises:
        InputError: it takes more time or memory than it may.
    """
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(call, sender))
    child.start()
    sender.close()
    begun = ""
    try:
        while True:
            if not receiver.poll(WAITS * MOST_SECONDS):
                got = f"no end after {WAITS * MOST_SECONDS:g} s by the clock"
                break
            kind, value = receiver.recv()
            if kind == "begin":
                begun = value
            elif kind == "ended":
                got = value
                break
            elif kind == "error":
                raise value
            else:
                found: Result = value
                return found
    except EOFError:
        child.join()
        number = -(child.exitcode or 0)
        is_late = number == signal.SIGPROF
        got = f"no end after {MOST_SECONDS:g} s" if is_late else f"the process ended with {_named(number)}"
    finally:
        child.kill()
        child.join()
        receiver.close()
    raise InputError(
        f"{what} takes more time or memory than any needs",
        expected=f"{MOST_SECONDS:g} s of processor time and {MOST_BYTES >> 30} GiB are enough for each text",
        got=got + f" at {begun}" * bool(begun),
        where=where,
        fix=fix,
    ) from None


def _answer(call: Callable[[Begin], Result], sender: "Connection[object, object]") -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)

    def begin(name: str = "") -> None:
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        if name:
            sender.send(("begin", name))

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # native code that gives up writes pages there
    _limit_memory()
    begin()
    try:
        sender.send(("value", call(begin)))
    except MemoryError:
        sender.send(("ended", f"more than {MOST_BYTES >> 30} GiB"))
    except Exception as error:
        if not isinstance(error, CrossbreedError):
            error.add_note(format_exc())
        sender.send(("error", error))
    except BaseException as error:  # what native code raises that gave up
        sender.send(("ended", first_line(error)))


def _limit_memory() -> None:
    held = Path("/proc/self/statm")
    if held.exists():
        most = int(held.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MOST_BYTES
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))


def _named(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"exit code {-number}"
