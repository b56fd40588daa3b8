"""The archive: the best trials. Computed from the journal, with no state of its own.

Trials that keep the constraints come before those that do not; of these, the one that is least far off comes first.
"""

from collections.abc import Sequence

import numpy as np

from crossbreed.constraints import violation_of
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import Trial


def best_trial(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Trial | None:
    """Returns the trial with the best first objective (then the second, ...); the earliest of equals."""
    scored = [t for t in trials if t.objectives is not None]
    return max(scored, key=lambda t: (rank(t, objectives), -t.number), default=None)


def pareto_front(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Returns the nondominated trials by number, of equals the earliest. With one objective, this is the best.

    If no trial keeps the constraints, it is the one that is least far off.
    """
    scored = [t for t in trials if t.objectives is not None]
    kept = [t for t in scored if not violation_of(t.excesses)]
    if len(objectives) == 1 or not kept:
        best = best_trial(scored, objectives)
        return [best] if best else []
    import moocore  # takes longer to import than most runs to be shown

    values_TO = np.array([utilities(t, objectives) for t in kept])
    nondominated = moocore.is_nondominated(values_TO, maximise=True)
    return [trial for trial, keep in zip(kept, nondominated, strict=True) if keep]


def rank(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Returns what is larger for the trial that comes first: one that keeps the constraints, then the better one."""
    return -violation_of(trial.excesses), *utilities(trial, objectives)


def utilities(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Returns the objectives of an OK trial, with signs such that more is better."""
    assert trial.objectives is not None
    return tuple(o.utility(value) for o, value in zip(objectives, trial.objectives, strict=True))
