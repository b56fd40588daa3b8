"""Selection of the winner before the report split is used: by search, then by search and selection items together.

Every OK trial competes, including baselines and warm starts: if no bred merge beats them, one of them wins, and the
report points it out. With several objectives, the winner is the knee of the Pareto front: the point furthest out from
the plane through the front's extremes, that is with the largest sum of objectives scaled to the front's range. With one
objective this is the best. Trials that keep the constraints come before those that do not, by Deb's rules.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crossbreed.constraints import violation_of
from crossbreed.errors import MachineError
from crossbreed.runs.record.archive import utilities
from crossbreed.runs.record.history import History
from crossbreed.runs.record.relative_criteria import RelativeCriteria
from crossbreed.runs.results.statistics import pool
from crossbreed.runs.search.baselines import best_tuned_scalar
from crossbreed.runs.spec.criteria import Criteria
from crossbreed.runs.spec.objectives import Floats, Objective, Scalar, Scores, build_scalar
from crossbreed.types import BaselineKind, ProposedBy, Score, Status, Trial

NUM_FINALISTS = 8
UNIFORM, TUNED_SCALAR, WINNER = "uniform", "tuned_scalar", "winner"
_EXPERT = "expert:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A trial of a merge that needs no search."""

    trial: Trial
    name: str
    """See `row_name`."""
    kind: BaselineKind


def finalists(trials: Iterable[Trial], objectives: Sequence[Objective], *, top: int = NUM_FINALISTS) -> list[Trial]:
    """Returns the trials to evaluate on the selection split, best first; of equals the earliest."""
    distinct = list({t.recipe.id: t for t in reversed(_scored(trials))}.values())
    if not distinct:
        return []
    off = {t.number: violation_of(t.excesses) for t in distinct}
    kept, broken = ([t for t in distinct if (off[t.number] > 0) is is_broken] for is_broken in (False, True))
    broken.sort(key=lambda t: (off[t.number], t.number))
    if not kept:
        return broken[:top]
    import moocore  # takes longer to import than most runs to be shown

    utility_TO = _utilities(kept, objectives)
    rank_T = moocore.pareto_rank(utility_TO, maximise=True)
    knee_T = _knee(utility_TO, among=utility_TO)
    order = sorted(range(len(kept)), key=lambda i: (rank_T[i], -knee_T[i], kept[i].number))
    return [*(kept[i] for i in order), *broken][:top]


def choose_winner(
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    selection: Mapping[int, Score],
    *,
    top: int = NUM_FINALISTS,
    relative_criteria: RelativeCriteria | None = None,
) -> Trial:
    """Returns the finalist that is best on its search and selection items together.

    Args:
        trials: The whole search.
        objectives: The run's objectives.
        selection: Trial number -> score on the selection split, for the finalists.
        top: The number of finalists.
        relative_criteria: Of a run with constraints, or objectives that are relative to baselines.

    Raises:
        MachineError: no finalist has a value on the selection split, or the base that they are relative to has none.
    """
    scores = {number: score for number, score in selection.items() if score.status is Status.OK}
    contenders = [t for t in finalists(trials, objectives, top=top) if t.number in scores]
    if not contenders:
        raise MachineError(
            "no finalist has a value on the selection and report items: log.txt says why, one by one\n"
            "`crossbreed report RUN --trial N` has any other trial answer the report items"
        )
    pooled = [pool(t.score.tasks, scores[t.number].tasks) for t in contenders]
    base = _pooled_base(trials, scores, relative_criteria)
    criteria = (
        Criteria(objectives=tuple(objectives))
        if relative_criteria is None or relative_criteria.criteria is None
        else relative_criteria.criteria
    )
    judged = [criteria.judged(tasks, base) for tasks in pooled]
    utility_CO = np.array([[o.utility(v) for o, v in zip(objectives, values, strict=True)] for values, _ in judged])
    off_C = [violation_of(excesses) for _, excesses in judged]
    kept = [t for t in _scored(trials) if not violation_of(t.excesses)] or _scored(trials)
    knee_C = _knee(utility_CO, among=_utilities(kept, objectives))
    best = max(range(len(contenders)), key=lambda i: (-off_C[i], off_C[i] == 0 and knee_C[i], -contenders[i].number))
    return contenders[best]


def _pooled_base(
    trials: Sequence[Trial], selection: Mapping[int, Score], relative_criteria: RelativeCriteria | None
) -> Scores | None:
    """Returns the base's search and selection items together, where something is relative to them."""
    if relative_criteria is None or not relative_criteria.needs_base:
        return None
    base = next((t for t in trials if t.number == relative_criteria.base_number and t.number in selection), None)
    if base is None:
        raise MachineError(
            "the base has no value on the selection items, and objectives or constraints are relative to it: log.txt "
            "says why\nthe same command evaluates it again"
        )
    return pool(base.score.tasks, selection[base.number].tasks)


def recorded_winner(history: History, objectives: Sequence[Objective]) -> Trial | None:
    """Returns the winner of a report that the journal holds completely, also of an interrupted run; else None.

    At the end of a search, finalists without both scores were left out since they could not be measured.
    """
    trials, selection, answered = history.ok_trials, history.scores_of("select"), history.scores_of("report")
    measured = {number for number, score in answered.items() if score.status is Status.OK}
    if history.is_finished:
        selection = {number: score for number, score in selection.items() if number in measured}
    elif any(trial.number not in selection for trial in finalists(trials, objectives)):
        return None
    else:  # what is INVALID on the report items does not win either
        selection = {n: score for n, score in selection.items() if n in measured or n not in answered}
    try:
        winner = choose_winner(trials, objectives, selection, relative_criteria=history.relative_criteria)
    except MachineError:
        return None
    return winner if winner.number in measured else None


def search_scalar(trials: Iterable[Trial], objectives: Sequence[Objective]) -> Scalar:
    """Returns the report's scalar, scaled by base, experts and uniform on the search items."""
    plain = (t.objectives for t in _scored(trials) if t.candidate.proposed_by.is_untuned)
    return build_scalar(objectives, [values for values in plain if values])


def tuned_scalar_trial(trials: Iterable[Trial], objectives: Sequence[Objective]) -> Trial | None:
    """Returns the trial of the best tuned scalar on the search items; see `best_tuned_scalar`."""
    scored = {t.number: t for t in _scored(trials)}
    best = best_tuned_scalar(
        {n: (t.candidate.proposed_by, utilities(t, objectives)) for n, t in scored.items()},
        off={n: violation_of(t.excesses) for n, t in scored.items()},
    )
    return None if best is None else scored[best]


def named_baselines(trials: Iterable[Trial], objectives: Sequence[Objective]) -> list[Baseline]:
    """Returns the measured baselines, in the order in which a report shows them."""
    trials = _scored(trials)
    found: list[Baseline] = []
    for trial in trials:
        match trial.candidate.proposed_by.kind:
            case "base" | "expert" | "uniform" as kind:
                found.append(Baseline(trial=trial, name=row_name(trial.candidate.proposed_by), kind=kind))
    tuned = tuned_scalar_trial(trials, objectives)
    return [*found, Baseline(trial=tuned, name=TUNED_SCALAR, kind="tuned_scalar")] if tuned else found


def row_name(baseline: ProposedBy) -> str:
    """Returns the expert's name, after `expert:` where it would be another model's name or a trial's; or the label."""
    name = baseline.name
    is_taken = name in (UNIFORM, TUNED_SCALAR, WINNER) or name.isdecimal() or name.startswith(_EXPERT)
    return name if name and not is_taken else baseline.label


def reported(trials: Sequence[Trial], objectives: Sequence[Objective], winner: int) -> list[Trial]:
    """Returns the trials to evaluate on the report split, by number: the baselines and the winner."""
    wanted = {winner, *(baseline.trial.number for baseline in named_baselines(trials, objectives))}
    return sorted((t for t in trials if t.number in wanted), key=lambda t: t.number)


def _scored(trials: Iterable[Trial]) -> list[Trial]:
    return sorted((t for t in trials if t.objectives is not None), key=lambda t: t.number)


def _utilities(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Floats:
    """Returns objective values, more is better: (trials T, objectives O)."""
    return np.array([utilities(trial, objectives) for trial in trials], dtype=np.float64)


def _knee(utility_XO: Floats, *, among: Floats) -> Floats:
    """Returns how far out each row lies, in units of the range of the Pareto front of `among`."""
    import moocore  # as above

    front_FO = among[moocore.is_nondominated(among, maximise=True)]
    low_O, span_O = front_FO.min(axis=0), np.ptp(front_FO, axis=0)
    span_O = np.where(span_O > 0, span_O, np.ptp(among, axis=0))  # a front of one point has no range
    outness: Floats = ((utility_XO - low_O) / np.where(span_O > 0, span_O, 1.0)).sum(axis=1)
    return outness
