"""How long it took to make a source of a run, noted in its folder."""

import json
from pathlib import Path

_SECONDS = "seconds.json"


def note_making(folder: Path, seconds: float) -> None:
    """Notes in the folder of what was made how long that took."""
    (folder / _SECONDS).write_text(json.dumps({"seconds": round(seconds, 2)}) + "\n")


def making_s(folder: Path) -> float | None:
    """Returns what was noted; None if nothing was."""
    try:
        return float(json.loads((folder / _SECONDS).read_text())["seconds"])
    except (OSError, ValueError, TypeError, LookupError):
        return None
