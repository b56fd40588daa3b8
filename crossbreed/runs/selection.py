"""Who wins, decided before the report split is looked at: by search, then by search and selection together.

Every OK trial competes, baselines and warm starts included: when nothing that was bred beats what the user had, the
winner is what the user had, and the report says so. The default pick of several objectives is the knee of the Pareto
front: the point furthest out from the plane through the front's extremes, that is with the largest sum of objectives
scaled to the front's range. With one objective this is the best.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import moocore
import numpy as np

from crossbreed.errors import MachineError
from crossbreed.runs.baselines import PREFIX
from crossbreed.runs.objectives import Floats, Objective, Scalar, build_scalar
from crossbreed.runs.statistics import pool
from crossbreed.types import Score, Status, Trial

NUM_FINALISTS = 8
UNIFORM, TUNED_SCALAR = "uniform", "tuned_scalar"
BaselineKind: TypeAlias = Literal["base", "expert", "uniform", "tuned_scalar"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A trial that stands for what a user could have had without a search."""

    trial: Trial
    name: str
    """The expert's own name, or the kind."""
    kind: BaselineKind


def baseline_of(trial: Trial) -> str | None:
    """Returns `base`, `expert:NAME`, `uniform` or `tuned_scalar:S`, None for a trial that is no baseline."""
    origin = trial.candidate.origin
    return origin.removeprefix(PREFIX) if origin.startswith(PREFIX) else None


def finalists(trials: Iterable[Trial], objectives: Sequence[Objective], *, top: int = NUM_FINALISTS) -> list[Trial]:
    """Returns the trials to answer on the selection split, best first; of equal recipes and scores the earliest."""
    distinct = list({t.recipe.id: t for t in reversed(_scored(trials))}.values())
    if not distinct:
        return []
    utility_TO = _utilities(distinct, objectives)
    rank_T = moocore.pareto_rank(utility_TO, maximise=True)
    knee_T = _knee(utility_TO, among=utility_TO)
    order = sorted(range(len(distinct)), key=lambda i: (rank_T[i], -knee_T[i], distinct[i].number))
    return [distinct[i] for i in order[:top]]


def choose_winner(
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    selection: Mapping[int, Score],
    *,
    top: int = NUM_FINALISTS,
) -> Trial:
    """Returns the finalist that is best on its search and selection items together.

    Args:
        trials: The whole search.
        objectives: Of the run.
        selection: Trial number -> score on the selection split, of the finalists.
        top: How many finalists there are.

    Raises:
        MachineError: no finalist could be measured on the selection split.
    """
    scores = {number: score for number, score in selection.items() if score.status is Status.OK}
    contenders = [t for t in finalists(trials, objectives, top=top) if t.number in scores]
    if not contenders:
        raise MachineError("no finalist could be measured on the selection split")
    pooled = [pool(t.score.tasks, scores[t.number].tasks) for t in contenders]
    utility_CO = np.array([[o.improvement(o.of(tasks), over=0.0) for o in objectives] for tasks in pooled])
    knee_C = _knee(utility_CO, among=_utilities(_scored(trials), objectives))
    best = max(range(len(contenders)), key=lambda i: (knee_C[i], -contenders[i].number))
    return contenders[best]


def search_scalar(trials: Iterable[Trial], objectives: Sequence[Objective]) -> Scalar:
    """Returns the report's scalar, scaled by base, experts and uniform on the search items."""
    kinds = ((baseline_of(t), t.objectives) for t in _scored(trials))
    return build_scalar(objectives, [v for kind, v in kinds if v and kind and not kind.startswith(TUNED_SCALAR)])


def best_tuned_scalar(trials: Iterable[Trial], objectives: Sequence[Objective]) -> Trial | None:
    """Returns the best global coefficient on the search items. `uniform` is s = 1, so it is one of them."""
    trials = _scored(trials)
    scalar = search_scalar(trials, objectives)
    tuned = [t for t in trials if (baseline_of(t) or "").startswith((TUNED_SCALAR, UNIFORM))]
    return max(tuned, key=lambda t: scalar.improvement(scalar.of(t.score.tasks), over=0.0), default=None)


def named_baselines(trials: Iterable[Trial], objectives: Sequence[Objective]) -> list[Baseline]:
    """Returns the baselines of a report in the order in which it shows them: those that the search could measure."""
    trials = _scored(trials)
    found: list[Baseline] = []
    for trial in trials:
        match (baseline_of(trial) or "").split(":", 1):
            case ["base" | "uniform" as kind]:
                found.append(Baseline(trial=trial, name=kind, kind=kind))
            case ["expert", name]:
                found.append(Baseline(trial=trial, name=name, kind="expert"))
    tuned = best_tuned_scalar(trials, objectives)
    return [*found, Baseline(trial=tuned, name=TUNED_SCALAR, kind="tuned_scalar")] if tuned else found


def reported(trials: Sequence[Trial], objectives: Sequence[Objective], winner: int) -> list[Trial]:
    """Returns the trials that the report split has to answer, by number: the baselines and the winner."""
    wanted = {winner, *(baseline.trial.number for baseline in named_baselines(trials, objectives))}
    return sorted((t for t in trials if t.number in wanted), key=lambda t: t.number)


def _scored(trials: Iterable[Trial]) -> list[Trial]:
    return sorted((t for t in trials if t.score.status is Status.OK), key=lambda t: t.number)


def _utilities(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Floats:
    """Objective values, more is better: (trials T, objectives O)."""
    rows = [zip(objectives, t.objectives or (), strict=True) for t in trials]
    return np.array([[o.improvement(value, over=0.0) for o, value in row] for row in rows], dtype=np.float64)


def _knee(utility_XO: Floats, *, among: Floats) -> Floats:
    """How far out each row lies, in units of the range that the Pareto front of `among` spans."""
    front_FO = among[moocore.is_nondominated(among, maximise=True)]
    low_O, span_O = front_FO.min(axis=0), np.ptp(front_FO, axis=0)
    span_O = np.where(span_O > 0, span_O, np.ptp(among, axis=0))  # a front of one point spans nothing
    outness: Floats = ((utility_XO - low_O) / np.where(span_O > 0, span_O, 1.0)).sum(axis=1)
    return outness
