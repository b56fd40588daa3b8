"""What the best so far would be against the best baseline, on the search items that it was chosen on."""

from collections.abc import Sequence
from dataclasses import dataclass

from crossbreed.constraints import violation_of
from crossbreed.runs.results.statistics import Interval, paired_difference
from crossbreed.runs.spec.objectives import Objective, Scores
from crossbreed.types import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """The best of what is no baseline, in one objective."""

    objective: str
    trial: int
    value: float
    baseline: str
    """The best of base, experts and uniform in this objective, which need no tuning."""
    baseline_value: float
    by: Interval
    """The improvement over it, paired by item; positive is better."""

    @property
    def brief(self) -> str:
        """Returns the difference with its interval."""
        mean, low, high = (round(value, 4) + 0.0 for value in (self.by.mean, self.by.low, self.by.high))  # no -0.0
        return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" if self.by.is_known else f"{mean:+.4f} [not known]"

    def __str__(self) -> str:
        return (
            f"{self.objective}: trial {self.trial} has {self.value:.4f}, {self.brief} against {self.baseline} "
            f"({self.baseline_value:.4f}) on the {self.by.n} search items, on which it was chosen: optimistic"
        )

    def to_json(self) -> dict[str, object]:
        """Returns the documented JSON."""
        return {
            "objective": self.objective,
            "trial": self.trial,
            "value": self.value,
            "baseline": self.baseline,
            "baseline_value": self.baseline_value,
            "difference_on_search": self.by.to_json(),
        }


class Leads:
    """The lead in each objective, trial by trial: the work does not grow with the trials before."""

    def __init__(self, objectives: Sequence[Objective], *, base: Scores | None = None) -> None:
        """Starts with nothing known.

        Args:
            objectives: The run's, bound to its baselines.
            base: The base's scores on the search items, where they are relative to them.
        """
        self._objectives, self._base = objectives, base
        self._best = [dict[bool, Trial]() for _ in objectives]
        """For each objective: whether it is a baseline -> the best such trial."""
        self._known = dict[tuple[int, int, int], Lead]()

    def add(self, trial: Trial) -> None:
        """Takes the next trial; one without a value changes nothing, nor does a tuned scalar: it is on neither side."""
        by = trial.candidate.proposed_by
        if trial.objectives is None or by.kind == "tuned_scalar":
            return
        for index, objective in enumerate(self._objectives):
            best = self._best[index].get(by.is_baseline)
            if best is None or _is_better(trial, best, index, objective):
                self._best[index][by.is_baseline] = trial

    def now(self) -> tuple[Lead, ...]:
        """Returns the leads, in the order of the objectives, as far as there are any."""
        return tuple(lead for index in range(len(self._objectives)) if (lead := self._lead(index)))

    def _lead(self, index: int) -> Lead | None:
        best, baseline, objective = self._best[index].get(False), self._best[index].get(True), self._objectives[index]
        if best is None or baseline is None:
            return None
        key = index, best.number, baseline.number
        if key not in self._known:
            self._known[key] = Lead(
                objective=objective.name,
                trial=best.number,
                value=_value(best, index),
                baseline=baseline.candidate.proposed_by.label,
                baseline_value=_value(baseline, index),
                by=paired_difference(best.score.tasks, baseline.score.tasks, objective, base=self._base),
            )
        return self._known[key]


def _is_better(trial: Trial, than: Trial, index: int, objective: Objective) -> bool:
    """Returns whether a trial comes before another: one that keeps the constraints does, then the better one."""
    off, least = violation_of(trial.excesses), violation_of(than.excesses)
    return off < least if off != least else objective.improvement(_value(trial, index), over=_value(than, index)) > 0


def _value(trial: Trial, index: int) -> float:
    assert trial.objectives is not None, "only trials with a value are kept"
    return trial.objectives[index]
