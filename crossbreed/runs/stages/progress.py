"""How far the present stage of a run has come."""

from collections.abc import Sequence
from dataclasses import dataclass

from crossbreed.runs.record.history import History
from crossbreed.runs.search.pace import Limits
from crossbreed.runs.stages.naming import StageName


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """The search that asks at the moment, among several stages."""

    name: StageName
    num_done: int
    """Its trials so far."""
    num_wanted: int | None
    """Its trials in all, at most; None if it has no such limit of its own."""

    @property
    def following(self) -> str:
        """Returns the stage and the trial that is next, in words."""
        if self.num_wanted is None:
            return f"{self.name}: trial {self.num_done + 1}"
        return f"{self.name}: trial {min(self.num_done + 1, self.num_wanted)} of {self.num_wanted}"

    def __str__(self) -> str:
        total = "" if self.num_wanted is None else f" of {self.num_wanted}"
        return f"{self.name} [{self.num_done}{total}]"

    def to_json(self) -> dict[str, object]:
        """Returns the documented JSON."""
        return {**self.name.to_json(), "trials": self.num_done, "trials_wanted": self.num_wanted}


def stage_progress(names: Sequence[StageName], limits: Limits, history: History) -> StageProgress | None:
    """Returns the progress of the search that asked last; None before one has, and in a run without stages.

    Args:
        names: The stages of the run.
        limits: What ends its searches, as far as that is known.
        history: Its state.
    """
    stage = history.stage
    if stage is None or stage >= len(names):
        return None
    most = limits.most.get(stage)
    num_lost = history.num_asked[stage] - history.num_measured(stage)
    return StageProgress(
        name=names[stage],
        num_done=history.num_told[stage],
        num_wanted=None if most is None else most + num_lost,
    )
