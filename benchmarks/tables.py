"""What the tables of docs/results.md say of a run, from the report that it left."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def is_done(folder: Path) -> bool:
    """Whether a run has come to its end and its report."""
    return (folder / "report.json").exists() and report_of(folder).get("is_over", True)


def report_of(folder: Path) -> dict[str, Any]:
    """Returns the report of a run that is done."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def shown(found: Mapping[str, float]) -> str:
    """Returns a mean with its interval."""
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def per_task(winner: Mapping[str, Any]) -> str:
    """Returns a winner's means by task."""
    return " / ".join(f"{found['mean']:.3f}" for found in winner["tasks"].values())


def name_of(winner: Mapping[str, Any]) -> str:
    """Returns who made a winner, which may be a baseline, and its number."""
    return f"{winner['origin']} {winner['number']}"
