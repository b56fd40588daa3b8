"""The archive: the best trials. Computed from the journal, with no state of its own."""

from collections.abc import Sequence

import numpy as np

from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import Trial


def best_trial(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Trial | None:
    """Returns the trial with the best first objective (then the second, ...); the earliest of equals."""
    scored = [t for t in trials if t.objectives is not None]
    return max(scored, key=lambda t: (utilities(t, objectives), -t.number), default=None)


def pareto_front(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Returns the nondominated trials by number, of equals the earliest. With one objective, this is the best."""
    scored = [t for t in trials if t.objectives is not None]
    if len(objectives) == 1 or not scored:
        best = best_trial(scored, objectives)
        return [best] if best else []
    import moocore  # takes longer to import than most runs to be shown

    values_TO = np.array([utilities(t, objectives) for t in scored])
    kept = moocore.is_nondominated(values_TO, maximise=True)
    return [trial for trial, keep in zip(scored, kept, strict=True) if keep]


def utilities(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Returns the objectives of an OK trial, with signs such that more is better."""
    assert trial.objectives is not None
    return tuple(o.utility(value) for o, value in zip(objectives, trial.objectives, strict=True))
