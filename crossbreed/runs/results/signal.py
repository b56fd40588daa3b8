"""What the baselines alone say of a run: tasks without signal, differences that its items may be too few to show."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from crossbreed.runs.results.statistics import DETECTED
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import Trial

_FEW = 0.2
"""Up to this share of right answers, a task says little of what a merge keeps."""


def findings(trials: Sequence[Trial], objectives: Sequence[Objective], *, num_report: Mapping[str, int]) -> list[str]:
    """Returns a sentence for each thing to know before the search; none where nothing stands out.

    Args:
        trials: The trials of the run; only its baselines are read.
        objectives: The run's.
        num_report: Task -> number of its report items, by which the run will be judged.
    """
    measured = [t for t in trials if t.candidate.proposed_by.is_baseline and t.objectives is not None]
    if not measured:
        return []
    lesser = {task: task in objective.lesser for objective in objectives for task in objective.tasks}
    found = [text for task, less in lesser.items() if (text := _of_task(task, measured, minimize=less))]
    return [*found, *_too_small(measured, objectives, num_report)]


def _of_task(task: str, measured: Sequence[Trial], *, minimize: bool) -> str:
    """Returns what is wrong with a task's signal; empty: nothing."""
    if any(t.score.tasks[task].means is not None for t in measured):
        only = {t.score.tasks[task].mean for t in measured}
        told = f"{task}: base, experts and their plain merges have the same mean: the baselines do not differ here"
        return told if len(only) == 1 and len(measured) > 1 else ""
    values = {t.candidate.proposed_by.label: t.score.tasks[task].values for t in measured}
    num_items = len(next(iter(values.values())))
    are_right_or_wrong = all(value in (0.0, 1.0) for of_model in values.values() for value in of_model)
    if len(set(values.values())) == 1 and len(values) > 1:
        only = set(next(iter(values.values())))
        what = {True: "are right on all", False: "are wrong on all"}.get(only == {1.0}, "")
        if not are_right_or_wrong or len(only) > 1 or minimize:
            what = "have the same values on all"
        return (
            f"{task}: base, experts and their plain merges {what} {num_items} items: the baselines do not differ here"
        )
    if not are_right_or_wrong or minimize:
        return ""
    means = {name: fmean(of_model) for name, of_model in values.items()}
    experts = {name: mean for name, mean in means.items() if name.startswith("expert:")}
    if means.get("base") == 1.0:
        return f"{task}: the base is right on all {num_items} items: a merge can only lose here"
    if experts and min(experts.values()) == 1.0:
        return f"{task}: every expert is right on all {num_items} items: a merge can hardly gain here"
    name = max(means, key=lambda name: means[name])
    if means[name] <= _FEW:
        right = round(means[name] * num_items)
        return f"{task}: the best baseline, {name}, is right on {right} of {num_items} items: nobody can do it yet"
    return ""


def _too_small(
    measured: Sequence[Trial], objectives: Sequence[Objective], num_report: Mapping[str, int]
) -> Iterator[str]:
    """Yields which differences the items may miss, by how the answers of the baselines differ.

    Merges that are more alike than the baselines differ on fewer items, so less may be enough to tell them apart.
    """
    for index, objective in enumerate(objectives):
        if any(t.score.tasks[task].means is not None for t in measured for task in objective.tasks):
            continue  # how answers to items differ is not told
        utilities = [(objective.utility(t.objectives[index]), t) for t in measured if t.objectives is not None]
        best = max(utilities, key=lambda pair: (pair[0], -pair[1].number))[1]
        others = [t for t in measured if t is not best]
        spreads = {task: _paired_spread(best, others, task) for task in objective.tasks}
        num_search = {task: len(best.score.tasks[task].values) for task in objective.tasks}
        on_search = _detectable(objective, spreads, num_search)
        if on_search > 0:
            on_report = _detectable(objective, spreads, num_report)
            seen, later = (sum(num[task] for task in objective.tasks) for num in (num_search, num_report))
            yield (
                f"{objective.name}: {seen} search items may miss differences below {on_search:.2g}, {later} report "
                f"items those below {on_report:.2g} (80 % power, by how the baselines' answers differ)"
            )


def _paired_spread(best: Trial, others: Sequence[Trial], task: str) -> float:
    """Returns the standard deviation of an item's difference between two models, on average over models."""
    variances = []
    for other in others:
        pairs = zip(best.score.tasks[task].values, other.score.tasks[task].values, strict=True)
        gaps = [a - b for a, b in pairs]
        mean = fmean(gaps)
        variances.append(fmean((gap - mean) ** 2 for gap in gaps))
    variance = fmean(variances) if variances else 0.0
    return math.sqrt(variance) if math.isfinite(variance) else 0.0


def _detectable(objective: Objective, spreads: Mapping[str, float], num_items: Mapping[str, int]) -> float:
    errors = {task: spread / math.sqrt(num_items[task]) for task, spread in spreads.items() if num_items.get(task)}
    gains = dict(zip(objective.tasks, objective.gains or (), strict=False))
    errors = {task: error / abs(gains.get(task, 1.0)) for task, error in errors.items()}
    if objective.kind in ("worst", "quantile"):
        return DETECTED * max(errors.values(), default=0.0)
    shares = objective.shares
    return DETECTED * math.sqrt(math.fsum((shares[task] * error) ** 2 for task, error in errors.items()))
