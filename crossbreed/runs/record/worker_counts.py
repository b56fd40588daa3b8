"""How many workers a running driver has: `workers.json` in the run folder. No state: only `show` reads it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from crossbreed.durable import write_atomically

WORKERS_FILE = "workers.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCounts:
    """The workers of a pool at one moment."""

    wanted: int
    alive: int
    """Started, and not lost since."""
    starting: int
    """On their way, or waiting for their next attempt to start."""
    lost: int
    """Died, hung or failed since the driver began; those that are back are counted again under `alive`."""

    @property
    def replaced(self) -> int:
        """How many of those lost have another worker in their place, or on its way."""
        return max(0, self.lost - max(0, self.wanted - self.alive - self.starting))

    def __str__(self) -> str:
        parts = [f"{self.alive} of {self.wanted} workers alive"]
        parts += [f"{self.starting} starting"] if self.starting else []
        parts += [f"{self.lost} lost since the driver began, {self.replaced} of them replaced"] if self.lost else []
        return ", ".join(parts)

    def to_json(self) -> dict[str, int]:
        """Returns the documented JSON."""
        return asdict(self) | {"replaced": self.replaced}

    def write(self, folder: Path) -> None:
        """Replaces what a run folder says."""
        write_atomically(folder / WORKERS_FILE, (json.dumps(asdict(self)) + "\n").encode())


@contextmanager
def forgetting_counts(folder: Path) -> Iterator[None]:
    """Removes what an earlier driver said, and in the end what this one does: who locks the journal next has none."""
    said = folder / WORKERS_FILE
    said.unlink(missing_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone, or no longer writable
            said.unlink()


def read_counts(folder: Path) -> WorkerCounts | None:
    """Returns what a run folder says; None: nothing, or nothing that can be read."""
    try:
        return WorkerCounts(**json.loads((folder / WORKERS_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
