"""A number that only many items together have; values of items are in `types`."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that only many items together have, as BLEU is one of a corpus: reported, and never searched."""

    value: float | None
    """None: there is none, and `error` says why."""
    low: float | None
    high: float | None
    """Bounds of its 95 % bootstrap interval over items; None: not known."""
    num_items: int
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        error = {"error": self.error} if self.error else {}
        return {"mean": self.value, "low": self.low, "high": self.high, "n": self.num_items, **error}
