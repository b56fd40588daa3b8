"""How a command ends: errors become one message and an exit code."""

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from typing import NoReturn, TextIO

import typer

from crossbreed.errors import CrossbreedError, InputError
from crossbreed.stopping import STOPPED, Stop


def end(command: Callable[[], int | None], stop: Stop) -> NoReturn:
    """Runs a command; exit codes: 0 done, 1 machine, engine or bug, 2 the user's input, 130 Ctrl-C or SIGTERM.

    Args:
        command: Parses the arguments, and does what they ask.
        stop: Listens to both signals.
    """
    stop.listen()
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that a terminal's encoding lacks ends no run
    try:
        try:
            code = _called(command)
        finally:
            stop.end()
    except BrokenPipeError:
        code = 0  # whoever read the output has what was wanted, as `head` does
    except InputError as error:
        code = _fail(2, str(error))
    except (CrossbreedError, OSError) as error:
        code = _fail(1, str(error))
    except (KeyboardInterrupt, typer.Abort):
        resumes = sys.argv[1:2] in (["run"], ["report"], ["publish"])
        code = _fail(STOPPED, f"stopped; the same command {'resumes' if resumes else 'begins anew'}")
    except Exception as error:
        show = getattr(error, "show", None)  # click's own: a wrong option or argument
        if show is None:
            code = _bug(error)
        else:
            show()
            code = 2
    _flush(*streams)
    sys.exit(code or 0)


def _called(command: Callable[[], int | None]) -> int | None:
    try:
        code = command()
    except SystemExit as ended:  # typer's own, where a pipe is closed
        if isinstance(ended.__context__, BrokenPipeError):
            return 0
        raise
    if code == STOPPED:
        raise KeyboardInterrupt  # which typer has converted to an exit code
    return code


def _flush(*streams: TextIO | None) -> None:
    """Flushes the output, which may be closed or go to a process that has ended."""
    for stream in streams:
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                from crossbreed.terminal import let_go

                let_go(stream)


def _fail(code: int, message: str) -> int:
    with suppress(OSError):  # the log has it
        typer.echo(f"crossbreed: {message}", err=True)
    return code


def _bug(error: Exception) -> int:
    """Prints which log has the traceback, or the traceback itself if no run was open."""
    from crossbreed.runs.record.folder import TRACEBACK_IS_IN

    logged = next((note for note in getattr(error, "__notes__", ()) if note.startswith(TRACEBACK_IS_IN)), None)
    if logged is None:
        traceback.print_exception(error)
        return 1
    what = next(iter(str(error).splitlines()), "")
    return _fail(1, f"a bug, {type(error).__name__}: {what[:200]}; {logged}")
