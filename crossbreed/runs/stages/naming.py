"""The names of a run's stages, as its spec lists them or as the journal recorded it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StageName:
    """A stage among the others.

    >>> str(StageName(number=1, label="cma_es", of=3))
    'stage 2 of 3, cma_es'
    """

    number: int
    """Its place in the list, from 0, as the journal has it."""
    label: str
    """What it makes, or its optimizer's kind."""
    of: int
    """The number of stages."""

    def __str__(self) -> str:
        return f"stage {self.number + 1} of {self.of}, {self.label}"

    def to_json(self) -> dict[str, object]:
        """Returns the documented JSON."""
        return {"number": self.number, "label": self.label, "of": self.of}


def stage_names(settings: Mapping[str, Any]) -> tuple[StageName, ...]:
    """Returns the names of a run's stages; none of a run without a list of them.

    Args:
        settings: The settings of a run as JSON: those that the journal's first record has, or a whole spec's.
    """
    labels = stage_labels(settings)
    return tuple(StageName(number=number, label=label, of=len(labels)) for number, label in enumerate(labels))


def stage_labels(settings: Mapping[str, Any]) -> list[str]:
    """Returns what to call each stage; see `stage_names`."""
    stages = settings.get("stages")
    return [_label(stage) for stage in stages if isinstance(stage, Mapping)] if isinstance(stages, list) else []


def _label(stage: Mapping[str, Any]) -> str:
    optimizer = stage.get("optimizer")
    return str(optimizer.get("kind") if isinstance(optimizer, Mapping) else stage.get("kind"))
