"""How a Pareto front grew: hypervolume and epsilon of the front after the baselines and after each quarter since.

Both are in units of the range of all that was measured, objective by objective, so that runs of any scale read alike.
The hypervolume (Zitzler & Thiele 1998) is the share of that box which the front dominates; its additive epsilon
(Zitzler et al. 2003) is how much is missing, on the worst objective, to what has been found by now.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from crossbreed.constraints import violation_of
from crossbreed.runs.record.archive import utilities
from crossbreed.runs.spec.objectives import Floats, Objective
from crossbreed.types import Trial

_QUARTERS = 4
_MOST_POINTS = 300
"""Of a front whose hypervolume is computed in more than three objectives: its cost explodes with both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontMark:
    """The front after some trials."""

    num_trials: int
    hypervolume: float
    """In [0, 1]."""
    epsilon: float
    """In [0, 1]; 0 for the front of now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontProgress:
    """The growth of a front."""

    marks: tuple[FrontMark, ...]
    """After the baselines, if there are any, and after each quarter of the trials since."""
    size: int
    """Number of trials that are on it now."""
    last: int
    """The last trial that entered it."""

    def lines(self) -> list[str]:
        """Returns what people are told."""
        grew = ", ".join(f"{mark.hypervolume:.3f} after {mark.num_trials}" for mark in self.marks)
        lines = [f"front: {self.size} trials, the last to enter it is trial {self.last}", f"hypervolume: {grew} trials"]
        if earlier := [mark for mark in self.marks if mark.epsilon > 0]:
            least = earlier[-1]
            lines.append(
                f"after {least.num_trials} trials, {least.epsilon:.3f} of the range was missing to it on the worst "
                "objective (additive epsilon)"
            )
        return lines

    def to_json(self) -> dict[str, object]:
        """Returns the documented JSON."""
        return {
            "size": self.size,
            "last": self.last,
            "marks": [
                {"trials": mark.num_trials, "hypervolume": mark.hypervolume, "epsilon": mark.epsilon}
                for mark in self.marks
            ],
        }


def front_progress(trials: Sequence[Trial], objectives: Sequence[Objective]) -> FrontProgress | None:
    """Returns the growth of a run's front, by trials that keep the constraints.

    Args:
        trials: Those that are OK, in their order.
        objectives: The run's objectives.

    Returns:
        None with one objective, before two trials differ, or where the hypervolume would take too long.
    """
    kept = [t for t in trials if t.objectives is not None and not violation_of(t.excesses)]
    if len(objectives) < 2 or len(kept) < 2:
        return None
    import moocore  # takes longer to import than most runs to be shown

    utility_TO = np.array([utilities(t, objectives) for t in kept])
    varies_O = np.ptp(utility_TO, axis=0) > 0
    if not varies_O.any():
        return None
    utility_TO = utility_TO[:, varies_O]
    utility_TO = (utility_TO - utility_TO.min(axis=0)) / np.ptp(utility_TO, axis=0)
    on_front = moocore.is_nondominated(utility_TO, maximise=True)
    front_FO: Floats = utility_TO[on_front]
    if front_FO.shape[1] > 3 and len(front_FO) > _MOST_POINTS:
        return None
    marks = []
    for num_trials in _stops(kept):
        part_XO = utility_TO[:num_trials]
        part_XO = part_XO[moocore.is_nondominated(part_XO, maximise=True)]
        marks.append(
            FrontMark(
                num_trials=num_trials,
                hypervolume=float(moocore.hypervolume(part_XO, ref=np.zeros(part_XO.shape[1]), maximise=True)),
                epsilon=max(0.0, float(moocore.epsilon_additive(part_XO, ref=front_FO, maximise=True))),
            )
        )
    numbers = [trial.number for trial, is_on in zip(kept, on_front, strict=True) if is_on]
    return FrontProgress(marks=tuple(marks), size=len(numbers), last=max(numbers))


def _stops(kept: Sequence[Trial]) -> list[int]:
    """Returns numbers of trials: those of the baselines, then every quarter of the others."""
    given = next((i for i, t in enumerate(kept) if not t.candidate.proposed_by.is_baseline), len(kept))
    rest = len(kept) - given
    stops = [given, *(given + ceil(rest * quarter / _QUARTERS) for quarter in range(1, _QUARTERS + 1))]
    return sorted({stop for stop in stops if stop})
