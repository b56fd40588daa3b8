"""How many trials a search has in all, what one takes, and how long the rest does."""

from dataclasses import dataclass

from crossbreed.runs.record.history import History


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The limits of a search. Candidates in flight are still evaluated."""

    trials: int | None
    """The optimizer's trials that could be measured; baselines are extra."""
    seconds: float | None
    """Search time, over all resumes."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of a search with a budget."""

    budget: Budget
    num_initial: int
    """The number of baselines and warm starts, which are not part of the budget."""

    def num_wanted(self, history: History) -> int | None:
        """Returns the number of trials in all; what FAILED of the optimizer's is made up for."""
        if self.budget.trials is None:
            return None
        return self.num_initial + self.budget.trials + sum(number >= self.num_initial for number in history.failed)

    def trial_s(self, history: History) -> float | None:
        """Returns the search's time for each trial so far, without the engine's start; None before the first."""
        return history.elapsed_s / len(history.trials) if history.trials else None

    def left_s(self, history: History) -> float | None:
        """Returns the estimated seconds to the end of the search; None if nothing is known of it."""
        limits = []
        num_wanted, trial_s = self.num_wanted(history), self.trial_s(history)
        if num_wanted is not None and trial_s is not None:
            limits.append((num_wanted - len(history.trials)) * trial_s)
        if self.budget.seconds is not None:
            limits.append(self.budget.seconds - history.elapsed_s)
        return min(limits, default=None)
