"""Ctrl-C in each phase of a run: exit 130, one line, and a run that resumes to what it would have been."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toy_runs import journal_of, write_spec

from crossbreed.cli import main
from crossbreed.runs.events import EngineStarting, Event, PlanDescribed, ReportWritten, SplitStarting, TrialDone
from crossbreed.runs.workers.local_pool import LocalPool
from crossbreed.stopping import Stop
from crossbreed.terminal import Terminal

Phase = Callable[[Event], bool]
PHASES: dict[str, Phase] = {
    "before the journal": lambda event: isinstance(event, PlanDescribed),
    "at the engine's start": lambda event: isinstance(event, EngineStarting),
    "in the search": lambda event: isinstance(event, TrialDone) and event.num_done == 3,
    "after the last trial": lambda event: isinstance(event, TrialDone) and event.num_done == event.num_wanted,
    "before the selection": lambda event: isinstance(event, SplitStarting) and event.split == "select",
    "before the report": lambda event: isinstance(event, SplitStarting) and event.split == "report",
    "after the report": lambda event: isinstance(event, ReportWritten),
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    return write_spec(tmp_path_factory.mktemp("spec"), base=toy_base, experts=toy_adapters, trials=1)


@pytest.fixture(scope="module")
def whole(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert called(patch, spec, out) == 0
    return out


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def called(patch: pytest.MonkeyPatch, spec: Path, out: Path) -> int:
    patch.setattr(sys, "argv", ["crossbreed", "run", str(spec), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def interrupted_at(patch: pytest.MonkeyPatch, phase: Phase, interrupt: Callable[[], object]) -> None:
    show = Terminal.__call__

    def shown(self: Terminal, event: Event) -> None:
        show(self, event)
        if phase(event):
            interrupt()

    patch.setattr(Terminal, "__call__", shown)


class Dropping:
    """Python prints what `__del__` raises and goes on: a Ctrl-C that lands in one is lost."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("is_lost", [False, True], ids=["", "and it gets lost"])
def test_ctrl_c_in_each_phase_stops_a_run_that_resumes(
    is_lost: bool,
    spec: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, lost = tmp_path / "run", list[object]()
    phases = ("in the search", "after the report") if is_lost else tuple(PHASES)
    for phase in phases:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "unraisablehook", lost.append)
            interrupted_at(patch, PHASES[phase], Dropping if is_lost else lambda: signal.raise_signal(signal.SIGINT))
            assert called(patch, spec, out) == 130, phase
        assert capsys.readouterr().err == "crossbreed: stopped; the same command resumes\n"
        assert (out / "journal.jsonl").exists() is (phase != "before the journal")
        assert (out / "report.html").exists() is (phase == "after the report")
        found = journal_of(out) if (out / "journal.jsonl").exists() else []
        assert found == journal_of(whole)[: len(found)], phase
    assert len(lost) == (len(phases) if is_lost else 0)
    assert called(monkeypatch, spec, out) == 0
    assert journal_of(out) == journal_of(whole)


def test_a_pool_that_cannot_be_closed_after_ctrl_c_is_no_bug(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def close(self: LocalPool) -> None:
        raise RuntimeError("the engine was interrupted, too")

    monkeypatch.setattr(LocalPool, "close", close)
    interrupted_at(monkeypatch, PHASES["in the search"], lambda: signal.raise_signal(signal.SIGINT))
    assert called(monkeypatch, spec, tmp_path / "run") == 130
    assert capsys.readouterr().err == "crossbreed: stopped; the same command resumes\n"


def test_a_stop_that_gets_lost_after_the_last_event_is_found_at_the_end() -> None:
    stop = Stop()
    stop.listen()
    stop.check()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        stop.check()
    with pytest.raises(KeyboardInterrupt):
        stop.end()


def test_what_is_printed_last_is_not_interrupted() -> None:
    stop = Stop()
    stop.listen()
    stop.end()
    signal.raise_signal(signal.SIGINT)
