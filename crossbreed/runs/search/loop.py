"""The search loop: propose, journal, evaluate, journal, tell. All its state can be restored from the journal."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from crossbreed.errors import MachineError
from crossbreed.runs.record.history import History
from crossbreed.runs.record.journal import Journal
from crossbreed.runs.record.records import AskRecord, EndRecord, Record, SplitName, TellClock, TellRecord
from crossbreed.runs.search.pool import Answered, Job, Pool
from crossbreed.runs.search.proposer import Proposer
from crossbreed.runs.search.stopwatch import Stopwatch
from crossbreed.runs.spec.objectives import Objective, item_values
from crossbreed.types import Candidate, Outcome, Score, Status, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The limits of a search. Candidates in flight are still evaluated."""

    trials: int | None
    """The optimizer's trials; baselines are extra."""
    seconds: float | None
    """Search time, over all resumes."""


class Loop:
    """One search over one journal."""

    def __init__(
        self,
        *,
        journal: Journal,
        history: History,
        proposer: Proposer,
        objectives: tuple[Objective, ...],
        budget: Budget,
        keep_answers: Callable[[SplitName, int, Score], None],
        watch: Callable[[Trial, History], None],
    ) -> None:
        self._journal, self._history, self._proposer = journal, history, proposer
        self._objectives, self._budget = objectives, budget
        self._keep_answers, self._watch = keep_answers, watch
        self._is_dry = False

    def replay(self, records: tuple[Record, ...]) -> None:
        """Restores history and optimizer from the journal's records."""
        self._history.extend(records)
        for record in records:
            match record:
                case AskRecord():
                    self._proposer.replay(record.candidate)
                case TellRecord(split="search"):
                    self._proposer.tell(self._outcome(self._history.trials[record.number]))

    @property
    def is_over(self) -> bool:
        """Whether the search is complete; False if it was interrupted."""
        is_spent = self._is_spent(self._history.elapsed_s) and not self._history.pending
        return self._history.is_finished or self._is_dry or is_spent

    def search(self, pool: Pool) -> bool:
        """Runs until the budget is spent and every asked candidate has been evaluated.

        Returns:
            Whether the budget is spent: if not, the optimizer had nothing left to ask.

        Raises:
            MachineError: a candidate FAILED before any was measured: the engine is at fault, and nothing is journalled.
        """
        again = self._history.pending
        stopwatch = Stopwatch(before_s=self._history.elapsed_s)
        while True:
            while pool.idle and (candidate := again.pop(0) if again else self._ask(stopwatch.elapsed_s)):
                pool.submit(self._job(candidate, "search"))
                stopwatch.submitted(candidate.number)
            if pool.idle and not pool.busy:
                self._is_dry = not self._is_spent(stopwatch.elapsed_s)
                return not self._is_dry
            answered = pool.wait()  # also for a worker that is being replaced, which is neither idle nor busy
            stopwatch.answered()
            if answered:
                self._record_search(answered, stopwatch)

    def _record_search(self, answered: Answered, stopwatch: Stopwatch) -> None:
        number, score = answered.job.number, answered.score
        if score.status is Status.FAILED and not self._history.ok_trials:
            raise MachineError(f"nothing could be measured: {score.error}")
        score = _with_other(score, stopwatch.seconds_of(number))
        self.record(replace(answered, score=score), elapsed_s=stopwatch.elapsed_s)

    def missing(self, split: SplitName, trials: Sequence[Trial]) -> list[Trial]:
        """Returns the trials that have not been measured on a split."""
        return [trial for trial in trials if not self._is_measured(split, trial.number)]

    def answer(self, split: SplitName, trials: Sequence[Trial], pool: Pool) -> None:
        """Evaluates the missing trials on another split; raises MachineError if weights differ from those searched."""
        missing = [trial.candidate for trial in self.missing(split, trials)]
        while missing or pool.busy:  # pool.wait() returns None when a worker becomes idle
            while missing and pool.idle:
                pool.submit(self._job(missing.pop(0), split))
            if answered := pool.wait():
                self._history.check_same_weights(answered.job.number, answered.score)
                self.record(answered)

    def record(self, answered: Answered, *, elapsed_s: float | None = None) -> None:
        """Journals one result, and only then tells the optimizer and the listener."""
        number, split, score = answered.job.number, answered.job.split, answered.score
        objectives = self._objective_values(score) if score.status is Status.OK else None
        clock = TellClock(
            seconds=score.cost.seconds,
            error=score.error,
            attempts=answered.attempts,
            worker=answered.worker,
            elapsed=elapsed_s,
        )
        self._keep_answers(split, number, score)
        self._write(TellRecord.of(score, number=number, split=split, objectives=objectives, clock=clock))
        if split == "search":
            trial = self._history.trials[number]
            self._proposer.tell(self._outcome(trial))
            self._watch(trial, self._history)

    def end(self) -> None:
        """Journals the end of the search if it is complete, unless that is already journalled."""
        if self.is_over and not self._history.is_finished:
            self._write(EndRecord())

    def _job(self, candidate: Candidate, split: SplitName) -> Job:
        genome = self._proposer.genome(candidate.number) if candidate.recipe is None else None
        return Job(number=candidate.number, split=split, recipe=candidate.recipe, genome=genome)

    def _is_measured(self, split: SplitName, number: int) -> bool:
        score = self._history.scores.get((split, number))
        return score is not None and score.status is not Status.FAILED

    def _ask(self, elapsed_s: float) -> Candidate | None:
        """Journals the next candidate before any work on it starts; None if the budget is spent or there is none."""
        if self._is_spent(elapsed_s):
            return None
        candidate = self._proposer.propose()
        if candidate is not None:
            self._write(AskRecord.of(candidate))
        return candidate

    def _is_spent(self, elapsed_s: float) -> bool:
        num_bred = self._proposer.num_asked - self._proposer.num_initial
        return num_bred >= 0 and (
            (self._budget.trials is not None and num_bred >= self._budget.trials)
            or (self._budget.seconds is not None and elapsed_s >= self._budget.seconds)
        )

    def _write(self, record: Record) -> None:
        self._journal.append(record)
        self._history.apply(record)

    def _objective_values(self, score: Score) -> tuple[float, ...]:
        return tuple(objective.of(score.tasks) for objective in self._objectives)

    def _outcome(self, trial: Trial) -> Outcome:
        """Returns a trial as the optimizer sees it, with every objective to be maximised."""
        values = trial.objectives and tuple(
            objective.utility(value) for value, objective in zip(trial.objectives, self._objectives, strict=True)
        )
        items = item_values(self._objectives, trial.score.tasks) if values else ()
        score = trial.score
        return Outcome(number=trial.number, status=score.status, values=values, items=items, slopes=score.slopes)


def _with_other(score: Score, wall_s: float) -> Score:
    """Adds the remaining time, beyond building and answering, since the worker became free for the candidate."""
    other_s = wall_s - math.fsum(score.cost.seconds.values())
    return replace(score, cost=replace(score.cost, seconds={**score.cost.seconds, "other": max(0.0, other_s)}))
