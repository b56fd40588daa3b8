"""What a running driver does at the moment: `phase.json` in the run folder. No state: only `show` reads it.

It also says which process wrote it, since before the journal is locked nothing else tells whether that is alive. Of
a process of another machine only the lock tells: a folder that was copied, or whose machine is gone, keeps its note.
"""

import json
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from crossbreed.durable import write_atomically
from crossbreed.runs.record.lock import has_ended, is_locked, this_process

PHASE_FILE = "phase.json"


class Phase(StrEnum):
    """A step of a run that may last, in the words that users see, and in their order."""

    SOURCES = "opening sources"
    HASHING = "hashing"
    GRAMS = "preparing Grams"
    REGRESSION = "regression"
    PLACING = "waiting for a place on the cluster"
    ENGINE = "starting engine"
    CANARY = "canary"
    BASELINES = "baselines"
    SEARCH = "search"
    FINALISTS = "finalists"
    REPORT = "report"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseNote:
    """A phase, and when it began."""

    phase: Phase
    began: float = field(default_factory=time.time)
    """Seconds since 1970: another process reads it."""

    @property
    def lasts_s(self) -> float:
        """Seconds since it began."""
        return max(0.0, time.time() - self.began)

    def write(self, folder: Path) -> None:
        """Replaces what a run folder says."""
        content = json.dumps({"phase": self.phase.value, "began": self.began, "process": this_process()})
        write_atomically(folder / PHASE_FILE, (content + "\n").encode())


def duration(seconds: float) -> str:
    """Returns a time for people.

    >>> duration(61), duration(7325)
    ('1:01', '2:02:05')
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def forget_phase(folder: Path) -> None:
    """Removes what this process said."""
    if _writer(folder) == this_process():
        (folder / PHASE_FILE).unlink(missing_ok=True)


def is_of_another(folder: Path) -> bool:
    """Returns whether another process, which goes on, says something."""
    return read_phase(folder) is not None and _writer(folder) != this_process()


def read_phase(folder: Path) -> PhaseNote | None:
    """Returns what a run folder says; None: nothing that can be read, or no driver that is known to go on."""
    try:
        found = json.loads((folder / PHASE_FILE).read_text())
        process = found["process"]
        is_here = process["host"] == this_process()["host"]
        if has_ended(process) or not (is_here or is_locked(folder / "journal.jsonl")):
            return None
        return PhaseNote(phase=Phase(found["phase"]), began=float(found["began"]))
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _writer(folder: Path) -> dict[str, str | int] | None:
    """Returns the process that wrote the note; None: there is none that can be read."""
    try:
        writer: dict[str, str | int] = json.loads((folder / PHASE_FILE).read_text())["process"]
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return writer
