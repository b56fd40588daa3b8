"""The progress of a search, as the event after each trial."""

from crossbreed.runs.events import TrialDone
from crossbreed.runs.record.archive import best_trial
from crossbreed.runs.record.history import History
from crossbreed.runs.search.loop import Budget
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import Trial


class Progress:
    """Computes progress from the history, trial by trial: the work does not grow with the trials before."""

    def __init__(self, *, objectives: tuple[Objective, ...], budget: Budget, num_initial: int) -> None:
        """Starts with nothing known.

        Args:
            objectives: The run's objectives.
            budget: The limits of the search.
            num_initial: The number of baselines and warm starts, which are not part of the budget.
        """
        self._objectives, self._budget, self._num_initial = objectives, budget, num_initial
        self._best: Trial | None = None
        self._is_begun = False

    def after(self, trial: Trial, history: History) -> TrialDone:
        """Returns the event of a trial that is in the history; called for each as it is added."""
        found = [trial] if self._is_begun else history.ok_trials
        self._best = best_trial([*found, self._best] if self._best else found, self._objectives)
        self._is_begun = True
        return TrialDone(
            trial=trial,
            num_done=len(history.trials),
            num_wanted=self._num_wanted(history),
            best=self._best,
            left_s=self._left_s(history),
        )

    def _num_wanted(self, history: History) -> int | None:
        """Returns the number of trials in all; what FAILED of the optimizer's is made up for."""
        if self._budget.trials is None:
            return None
        return self._num_initial + self._budget.trials + sum(number >= self._num_initial for number in history.failed)

    def _left_s(self, history: History) -> float | None:
        limits = []
        if (num_wanted := self._num_wanted(history)) is not None:
            per_trial_s = history.elapsed_s / len(history.trials)  # without the engine's start
            limits.append((num_wanted - len(history.trials)) * per_trial_s)
        if self._budget.seconds is not None:
            limits.append(self._budget.seconds - history.elapsed_s)
        return min(limits, default=None)
