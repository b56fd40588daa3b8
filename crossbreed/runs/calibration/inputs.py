"""What a calibration loss is made of: the parts of a run that it reads. The plan gives them as one value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossbreed.fitness import AnyItems, Task
from crossbreed.runs.record.records import SplitName
from crossbreed.runs.spec import SlopesConfig
from crossbreed.runs.spec.objectives import Objective

if TYPE_CHECKING:
    from crossbreed.runs.weights import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationInputs:
    """Tasks, items and sources of a run, and how its slopes are computed."""

    tasks: Sequence[Task]
    items: Mapping[SplitName, Mapping[str, AnyItems]]
    """Split -> task -> items. The loss is of search items; prompts may be none of the others."""
    objective: Objective
    experts: tuple[str, ...]
    weights: "Weights | None"
    """The sources' tensors; None where none are on this machine: then there is no loss."""
    dtype: str
    """Of merges."""
    slopes: SlopesConfig
    context_tokens: int | None
    """The context of the model, if the settings of the engine limit it."""
    seed: int
