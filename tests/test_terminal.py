"""What the command line shows of events: one line that moves on a terminal, plain lines elsewhere."""

import io
import os
import pty
import signal
import sys
import time
from collections.abc import Callable
from typing import TextIO

import pytest

from crossbreed import terminal
from crossbreed.cli import main
from crossbreed.cli.ending import end
from crossbreed.cli.output import STOP
from crossbreed.runs.events import Note, PhaseStarting, SplitStarting, TrialDone
from crossbreed.runs.record.phase import Phase
from crossbreed.terminal import Terminal
from crossbreed.types import Candidate, ProposedBy, Score, Status, Trial


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def done(number: int) -> TrialDone:
    candidate = Candidate(number=number, recipe=None, proposed_by=ProposedBy(kind="optimizer", name="cma_es"))
    trial = Trial(candidate=candidate, score=Score(status=Status.OK), objectives=(0.5,))
    return TrialDone(trial=trial, num_done=number + 1, num_wanted=9, best=trial, left_s=61.0)


def test_what_lasts_counts_its_seconds_on_a_terminal_and_says_so_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_SHOWN_AFTER_S", 0.1)
    monkeypatch.setattr(terminal, "_EVERY_S", 0.2)
    file, screen = io.StringIO(), Screen()
    with Terminal(file, doing="reading spec.yaml"), Terminal(screen) as show:
        show(PhaseStarting(phase=Phase.SOURCES))
        time.sleep(1.3)
        show(done(0))
        time.sleep(1.3)
        show(Note(text="a note"))
    assert file.getvalue().splitlines() == ["reading spec.yaml ...", "reading spec.yaml: 1 s", "reading spec.yaml: 2 s"]
    shown = screen.getvalue()
    assert "opening sources ...\n\r\x1b[2Kopening sources: 1 s\r\x1b[2K[1 of 9]" in shown
    assert f"\r\x1b[2K{(LINE.format(1, 0, 0) + '  1 s')[:79]}\r\x1b[2K{LINE.format(1, 0, 0)}\na note\n" in shown


LINE = "[{} of 9]  trial {}  cma_es  0.5000  best 0.5000 (trial {})  about 1:01 left"


def test_a_file_gets_one_plain_line_for_each_event() -> None:
    file = io.StringIO()
    with Terminal(file) as show:
        show(done(0))
        show(Note(text="a note"))
        show(done(1))
    assert file.getvalue() == "\n".join([LINE.format(1, 0, 0), "a note", LINE.format(2, 1, 1), ""])


def test_trials_share_one_line_on_a_terminal_and_everything_else_has_its_own() -> None:
    screen = Screen()
    with Terminal(screen) as show:
        show(done(0))
        show(done(1))
        assert "\n" not in screen.getvalue()
        show(SplitStarting(split="select", num_models=3, num_items=40))
        show(SplitStarting(split="report", num_models=4, num_items=90))
    assert screen.getvalue().endswith(
        "left\nselect: 3 models answer 40 items each ...\nreport: 4 models answer 90 items each ...\n"
    )


def test_an_error_in_mid_line_leaves_the_line_first() -> None:
    screen = Screen()

    def stopped() -> None:
        with Terminal(screen) as show:
            show(done(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert screen.getvalue().endswith("left\n")


def a_pipe_without_a_reader(buffering: int = 1) -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=buffering)


def a_terminal_that_is_gone() -> TextIO:
    controller, terminal = pty.openpty()
    os.close(controller)
    return os.fdopen(terminal, "w", buffering=1)


@pytest.mark.parametrize("make", [a_pipe_without_a_reader, a_terminal_that_is_gone])
def test_an_output_that_is_gone_ends_no_run(make: Callable[[], TextIO]) -> None:
    file = make()
    with pytest.raises(OSError, match=r"Broken pipe|Input/output error"):
        os.write(file.fileno(), b"is it there?")
    with Terminal(file) as show:
        show(done(0))
        show(Note(text="a note"))
        show(done(1))
    file.close()  # what was buffered raises nothing either


def test_a_standard_output_that_was_never_open_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with Terminal() as show:
        show(done(0))
        show(Note(text="a note"))


def test_what_the_encoding_of_a_terminal_lacks_ends_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    screen = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", screen)
    with pytest.raises(SystemExit) as ended:
        end(lambda: print("\u65e5\u672c \xe9"), STOP)
    for number, handler in before.items():
        signal.signal(number, handler)
    assert ended.value.code == 0
    assert screen.buffer.getvalue() == b"\\u65e5\\u672c \xe9\n"


@pytest.mark.parametrize("buffering", [1, 1 << 20])
@pytest.mark.parametrize("command", [("list",), ("list", "operators", "--json"), ("--help",)])
def test_a_command_whose_reader_has_left_ends_quietly(
    buffering: int, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `crossbreed list | head -1`: the pipe breaks at the first line, or when all is flushed at the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    file = a_pipe_without_a_reader(buffering)
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(sys, "argv", ["crossbreed", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    for number, handler in before.items():
        signal.signal(number, handler)
    assert (ended.value.code, capsys.readouterr().err) == (0, "")
    file.close()  # what was buffered raises nothing either
