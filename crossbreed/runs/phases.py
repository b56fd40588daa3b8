"""Which phase a run is in, by its events: for the run folder, and for what a terminal shows while nothing happens."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crossbreed.runs.events import (
    EngineStarting,
    Event,
    Listener,
    PhaseStarting,
    Preparing,
    ReportWritten,
    SplitStarting,
    TrialDone,
    WorkersReady,
)
from crossbreed.runs.record.lock import is_locked
from crossbreed.runs.record.phase import Phase, PhaseNote, forget_phase, is_of_another


class Phases:
    """The current phase, as far as the events so far tell."""

    def __init__(self) -> None:
        """Nothing has begun."""
        self.phase: Phase | None = None
        self.text = ""
        """The phase in words, with the trial that is next; empty where nothing is going on."""
        self._before: tuple[Phase | None, str] = (None, "")

    def after(self, event: Event) -> None:
        """Takes the next event."""
        match event:
            case PhaseStarting(phase=Phase.PLACING | Phase.CANARY):
                self._begin(event.phase)
            case PhaseStarting():
                self._begin(event.phase, event.detail)
            case Preparing():
                self._begin(Phase.GRAMS)
            case EngineStarting():
                self._before = self.phase, self.text
                self._begin(Phase.ENGINE)
            case WorkersReady():
                self.phase, self.text = self._before
            case TrialDone():
                total = "" if event.num_wanted is None else f" of {event.num_wanted}"
                following = f"{self.phase or Phase.SEARCH}, trial {event.num_done + 1}{total}"
                self.text = event.stage.following if event.stage else following
            case SplitStarting():
                self._begin(Phase.FINALISTS if event.split == "select" else Phase.REPORT)
            case ReportWritten():
                self.phase, self.text = None, ""

    def _begin(self, phase: Phase, detail: str = "") -> None:
        self.phase, self.text = phase, f"{phase}{detail and ': '}{detail}"


@contextmanager
def phase_noted(folder: Path, on_event: Listener) -> Iterator[Listener]:
    """Yields a listener that also keeps `phase.json` of a run folder, which is removed in the end.

    Where another driver is at work in the folder, one of the two will be refused, and the file is of the first.
    """
    phases = Phases()
    was_locked = is_locked(folder / "journal.jsonl")  # by another, which may be this process

    def tell(event: Event) -> None:
        before = phases.phase
        phases.after(event)
        if not was_locked and phases.phase not in (before, None) and not is_of_another(folder):
            with suppress(OSError):  # a full disk ends no run for a line that only `show` reads
                PhaseNote(phase=phases.phase).write(folder)
        on_event(event)

    try:
        yield tell
    finally:
        if not was_locked:
            with suppress(OSError):
                forget_phase(folder)
