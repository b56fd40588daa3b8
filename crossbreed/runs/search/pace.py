"""How many trials the searches of a run have in all, what one takes, and how long the rest does."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from crossbreed.optimizer import BudgetConfig
from crossbreed.runs.record.history import History
from crossbreed.runs.spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The limits of a search. Candidates in flight are still evaluated."""

    trials: int | None = None
    """The optimizer's trials that could be measured; baselines are extra."""
    seconds: float | None = None
    """Search time, over all resumes."""

    @classmethod
    def of(cls, config: BudgetConfig) -> Self:
        """Returns the budget that a spec has."""
        return cls(trials=config.trials, seconds=None if config.minutes is None else config.minutes * 60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a run: those of all its searches together, and each one's own."""

    whole: Budget
    own: Mapping[int, Budget] = field(default_factory=lambda: {0: Budget()})
    """Stage -> the limits of its search, in the order of the searches; empty: nothing is searched."""
    most: Mapping[int, int | None] = field(default_factory=dict)
    """Stage -> the most trials that its search has, by these limits and its optimizer; None: any number."""

    @classmethod
    def of(cls, *, trials: int | None, seconds: float | None) -> Self:
        """Returns the limits of a run with one search."""
        return cls(whole=Budget(trials=trials, seconds=seconds))

    @property
    def trials(self) -> int | None:
        """The most trials of all optimizers; None if they are not limited."""
        return self.trials_after({})

    def trials_after(self, ended: Mapping[int, int]) -> int | None:
        """Returns the most trials of all optimizers; None if they are not limited.

        Args:
            ended: Stage that is over, perhaps by a clock -> the trials that it had.
        """
        each = [ended.get(stage, self.most.get(stage, budget.trials)) for stage, budget in self.own.items()]
        total = None if None in each else sum(trials for trials in each if trials is not None)
        return min((number for number in (self.whole.trials, total) if number is not None), default=None)

    @property
    def seconds(self) -> float | None:
        """The longest search time; None if it is not limited."""
        return self.whole.seconds

    def is_spent(self, history: History, elapsed_s: float) -> bool:
        """Returns whether the limits of all searches together are reached; not before all baselines were asked."""
        if self.whole.seconds is not None and elapsed_s >= self.whole.seconds:
            return True
        limit, num_asked = self.whole.trials, sum(history.num_asked.values())
        return limit is not None and num_asked >= limit and sum(map(history.num_measured, history.num_asked)) >= limit

    def is_stage_spent(self, stage: int, history: History, elapsed_s: float) -> bool:
        """Returns whether a search has reached its own limits."""
        own = self.own[stage]
        if own.seconds is not None and elapsed_s - history.began_s.get(stage, elapsed_s) >= own.seconds:
            return True
        limit = own.trials
        return limit is not None and history.num_asked[stage] >= limit and history.num_measured(stage) >= limit

    def is_last_spent(self, history: History) -> bool:
        """Returns whether the last search has reached its own limits, or there is none to begin."""
        if not self.own:
            return True
        last = [*self.own][-1]
        return history.stage == last and self.is_stage_spent(last, history, history.elapsed_s)


def limits_of(spec: Spec) -> Limits:
    """Returns the limits of a spec's searches, together and alone."""
    return Limits(
        whole=Budget.of(spec.limits),
        own={search.number: Budget.of(search.own) for search in spec.searches},
        most={search.number: search.most_trials for search in spec.searches},
    )


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of a search with limits."""

    limits: Limits
    num_initial: int
    """The number of baselines and warm starts, which are not part of the budget."""

    def num_wanted(self, history: History) -> int | None:
        """Returns the number of trials in all; what FAILED is made up for, what a clock has ended is not."""
        ended = {stage: history.num_measured(stage) for stage in self.limits.own if stage < (history.stage or 0)}
        if (trials := self.limits.trials_after(ended)) is None:
            return None
        return self.num_initial + trials + sum(number >= self.num_initial for number in history.failed)

    def trial_s(self, history: History) -> float | None:
        """Returns the search's time for each trial so far, without the engine's start; None before the first."""
        return history.elapsed_s / len(history.trials) if history.trials else None

    def left_s(self, history: History) -> float | None:
        """Returns the estimated seconds to the end of the search; None if nothing is known of it."""
        limits, whole, now = list[float](), self.limits.whole, history.stage or 0
        num_wanted, trial_s = self.num_wanted(history), self._trial_s_of(now, history)
        stages = [self._stage_left_s(stage, history) for stage in self.limits.own if stage >= now]
        are_known = bool(stages) and None not in stages and trial_s is not None
        if are_known and trial_s is not None:
            before_s = max(0, self.num_initial - len(history.trials) + history.num_told.total()) * trial_s
            limits.append(before_s + math.fsum(left_s for left_s in stages if left_s is not None))
        if num_wanted is not None and trial_s is not None and not (are_known and whole.trials is None):
            limits.append((num_wanted - len(history.trials)) * trial_s)
        if whole.seconds is not None:
            limits.append(whole.seconds - history.elapsed_s)
        return max(0.0, min(limits)) if limits else None

    def _stage_left_s(self, stage: int, history: History) -> float | None:
        """Returns the estimated seconds to the end of one search, by its own limits; None if they do not tell."""
        own, trial_s, limits = self.limits.own[stage], self._trial_s_of(stage, history), list[float]()
        most = self.limits.most.get(stage, own.trials)
        if most is not None and trial_s is not None:
            num_lost = history.num_asked[stage] - history.num_measured(stage)
            limits.append((most + num_lost - history.num_told[stage]) * trial_s)
        if own.seconds is not None:
            limits.append(own.seconds - (history.elapsed_s - history.began_s.get(stage, history.elapsed_s)))
        return max(0.0, min(limits)) if limits else None

    def _trial_s_of(self, stage: int, history: History) -> float | None:
        """Returns the seconds a trial of one search, by its own trials and, as one more, the pace of all so far."""
        trial_s, began_s = self.trial_s(history), history.began_s.get(stage)
        if trial_s is None or began_s is None:
            return trial_s
        return (history.elapsed_s - began_s + trial_s) / (history.num_told[stage] + 1)
