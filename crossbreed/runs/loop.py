"""The search loop: propose, journal, answer, journal, tell. It holds no state that the journal does not."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from crossbreed.errors import MachineError
from crossbreed.runs.history import History, SplitName, ask_record, candidate_of, tell_record
from crossbreed.runs.journal import Journal, Record
from crossbreed.runs.objectives import Objective, item_values
from crossbreed.runs.pool import Job, Pool
from crossbreed.runs.proposer import Proposer
from crossbreed.types import Candidate, Outcome, Score, Status, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When to stop asking. Candidates in flight are still answered."""

    trials: int | None
    """The optimizer's trials; the baselines come on top."""
    seconds: float | None
    """Time spent searching, over all resumes."""


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
        """Brings history and optimizer to where the journal's last record left them."""
        self._history.extend(records)
        for record in records:
            if record["kind"] == "ask":
                self._proposer.replay(candidate_of(record))
            elif record["kind"] == "tell" and record["split"] == "search":
                self._proposer.tell(self._outcome(self._history.trials[record["number"]]))

    @property
    def is_over(self) -> bool:
        """Whether the search is at its end: it is not where it was stopped before."""
        is_spent = self._is_spent(self._history.elapsed_s) and not self._history.pending
        return self._history.is_finished or self._is_dry or is_spent

    def search(self, pool: Pool) -> bool:
        """Runs until the budget is spent and every candidate asked has been answered.

        Returns:
            Whether the budget is spent: if not, the optimizer had nothing left to ask.

        Raises:
            MachineError: a candidate FAILED before any was measured: the engine is at fault, and nothing is journalled.
        """
        again = self._history.pending
        before_s, start, freed = self._history.elapsed_s, 0.0, 0.0
        began: dict[int, float] = {}
        while True:
            elapsed_s = before_s + (freed - start)
            while pool.idle and (candidate := again.pop(0) if again else self._ask(elapsed_s)):
                pool.submit(self._job(candidate, "search"))
                start = start or time.monotonic()  # the first submit also starts the workers: not searching yet
                began[candidate.number] = freed = freed or start
            if pool.idle and not pool.busy:
                self._is_dry = not self._is_spent(elapsed_s)
                return not self._is_dry
            answered = pool.wait()  # also for a worker that is being replaced: it is neither idle nor busy
            freed = time.monotonic()
            if answered:
                if answered.score.status is Status.FAILED and not self._history.ok_trials:
                    raise MachineError(f"nothing could be measured: {answered.score.error}")
                score = _with_other(answered.score, freed - began[answered.job.number])
                self.record(
                    answered.job.number, "search", score, {**answered.clock, "elapsed": before_s + freed - start}
                )

    def missing(self, split: SplitName, trials: Sequence[Trial]) -> list[Trial]:
        """Returns those that were not measured on a split."""
        return [trial for trial in trials if not self._is_measured(split, trial.number)]

    def answer(self, split: SplitName, trials: Sequence[Trial], pool: Pool) -> None:
        """Has trials answered on another split, unless they were; MachineError if weights are others than searched."""
        missing = [trial.candidate for trial in self.missing(split, trials)]
        while missing or pool.busy:  # pool.wait() returns None when a worker has come up
            while missing and pool.idle:
                pool.submit(self._job(missing.pop(0), split))
            if answered := pool.wait():
                self._history.check_same_weights(answered.job.number, answered.score)
                self.record(answered.job.number, split, answered.score, answered.clock)

    def record(self, number: int, split: SplitName, score: Score, clock: Mapping[str, object]) -> None:
        """Journals one answer, then lets everyone know it: the disk first."""
        objectives = self._objective_values(score) if score.status is Status.OK else None
        self._keep_answers(split, number, score)
        self._write(tell_record(number, split, score, objectives=objectives, clock=clock))
        if split == "search":
            trial = self._history.trials[number]
            self._proposer.tell(self._outcome(trial))
            self._watch(trial, self._history)

    def end(self) -> None:
        """Journals that nothing is left to do, if so, and unless the journal says it already."""
        if self.is_over and not self._history.is_finished:
            self._write({"kind": "end"})

    def _job(self, candidate: Candidate, split: SplitName) -> Job:
        genome = self._proposer.genome(candidate.number) if candidate.recipe is None else None
        return Job(number=candidate.number, split=split, recipe=candidate.recipe, genome=genome)

    def _is_measured(self, split: SplitName, number: int) -> bool:
        score = self._history.scores.get((split, number))
        return score is not None and score.status is not Status.FAILED

    def _ask(self, elapsed_s: float) -> Candidate | None:
        """Journals the next candidate before any work on it starts; None when the budget or the optimizer says wait."""
        if self._is_spent(elapsed_s):
            return None
        candidate = self._proposer.propose()
        if candidate is not None:
            self._write(ask_record(candidate))
        return candidate

    def _is_spent(self, elapsed_s: float) -> bool:
        num_bred = self._proposer.num_asked - self._proposer.num_firsts
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
        """The optimizer's view: every objective is to be maximised."""
        values = trial.objectives and tuple(
            objective.improvement(value, over=0.0)
            for value, objective in zip(trial.objectives, self._objectives, strict=True)
        )
        items = item_values(self._objectives, trial.score.tasks) if values else ()
        score = trial.score
        return Outcome(number=trial.number, status=score.status, values=values, items=items, slopes=score.slopes)


def _with_other(score: Score, wall_s: float) -> Score:
    """Adds what neither building the candidate nor answering took, from the moment its worker was free for it."""
    other_s = wall_s - math.fsum(score.cost.seconds.values())
    return replace(score, cost=replace(score.cost, seconds={**score.cost.seconds, "other": max(0.0, other_s)}))
