"""The progress of a search, as the event after each trial."""

from dataclasses import dataclass

from crossbreed.runs.events import TrialDone
from crossbreed.runs.record.archive import best_trial
from crossbreed.runs.record.history import History
from crossbreed.runs.search.loop import Budget
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Computes progress from the history."""

    objectives: tuple[Objective, ...]
    budget: Budget
    num_initial: int
    """The number of baselines and warm starts, which are not part of the budget."""

    def after(self, trial: Trial, history: History) -> TrialDone:
        """Returns the event of a trial that is in the history."""
        return TrialDone(
            trial=trial,
            num_done=len(history.trials),
            num_wanted=self._num_wanted,
            best=best_trial(history.ok_trials, self.objectives),
            left_s=self._left_s(history),
        )

    @property
    def _num_wanted(self) -> int | None:
        return None if self.budget.trials is None else self.num_initial + self.budget.trials

    def _left_s(self, history: History) -> float | None:
        limits = []
        if self._num_wanted is not None:
            per_trial_s = history.elapsed_s / len(history.trials)  # without the engine's start
            limits.append((self._num_wanted - len(history.trials)) * per_trial_s)
        if self.budget.seconds is not None:
            limits.append(self.budget.seconds - history.elapsed_s)
        return min(limits, default=None)
