"""The search loop: propose, journal, evaluate, journal, tell. All its state can be restored from the journal.

The history alone says what has been measured, whether the search is over, and what other splits still need. The
proposer, and the optimizer with it, is restored only when the search goes on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from crossbreed.errors import InputError, MachineError
from crossbreed.runs.record.history import History
from crossbreed.runs.record.journal import Journal
from crossbreed.runs.record.records import AskRecord, EndRecord, Record, SplitName, TellClock, TellRecord
from crossbreed.runs.search.outage import Outage
from crossbreed.runs.search.pace import Limits
from crossbreed.runs.search.pool import Job, JobResult, Pool
from crossbreed.runs.search.proposer import Proposer
from crossbreed.runs.search.stopwatch import Stopwatch
from crossbreed.runs.spec.objectives import Objective, item_values
from crossbreed.types import Candidate, Outcome, Score, Status, Trial


class Loop:
    """One search over one journal."""

    def __init__(
        self,
        *,
        journal: Journal,
        history: History,
        proposer: Proposer,
        objectives: tuple[Objective, ...],
        limits: Limits,
        keep_answers: Callable[[SplitName, int, Score], None],
        watch: Callable[[Trial, History], None],
        turned: Callable[[int, int], None] = lambda ended, begun: None,
    ) -> None:
        """Creates a loop.

        Args:
            journal: Records what is asked and told.
            history: The state of the run, without records.
            proposer: Gives the candidates.
            objectives: What scores are judged by.
            limits: End the searches.
            keep_answers: Stores the texts of a score.
            watch: Called with each trial.
            turned: Called between two searches, with the stages of the one that is over and of the one that begins.
        """
        self._journal, self._history, self._proposer = journal, history, proposer
        self._objectives, self._limits = objectives, limits
        self._keep_answers, self._watch, self._turned = keep_answers, watch, turned
        self._is_done = False
        self._to_replay: Sequence[Record] = ()
        self._irreproducible: dict[int, str] = {}
        self._unmeasurable: dict[tuple[SplitName, int], str] = {}
        self._held: list[tuple[int, Score, tuple[float, ...] | None]] = []
        """What the proposer is told once the baselines are known by which it is judged."""

    def replay(self, records: Sequence[Record]) -> None:
        """Restores the history from a journal's records, which the proposer will repeat when the search goes on."""
        self._history.extend(records)
        self._to_replay = records

    @property
    def irreproducible(self) -> Mapping[int, str]:
        """Trials that another split could not be measured for, since their recipes give other weights now -> why."""
        return self._irreproducible

    def unmeasurable(self, split: SplitName) -> dict[int, str]:
        """Returns the trials that have no value on another split -> why.

        They are INVALID there, as the journal says; or they FAILED although the engine lived, which is not journalled.
        """
        invalid = {
            number: f"{self._history.candidates[number].proposed_by} has no value on the {split} split: {score.error}"
            for number, score in self._history.scores_of(split).items()
            if score.status is Status.INVALID
        }
        return invalid | {number: why for (where, number), why in self._unmeasurable.items() if where == split}

    @property
    def is_over(self) -> bool:
        """Whether the search is complete; False if it was interrupted."""
        return self._history.is_finished or self._is_done or self._is_all_spent

    def search(self, pool: Pool, *, resumed: Callable[[Sequence[int]], None] = lambda differing: None) -> bool:
        """Runs until nothing is left to ask, for the budget or the optimizer, and all candidates have been evaluated.

        Candidates that FAILED are evaluated again first, and count in the budget only once they are measured.

        Args:
            pool: Evaluates the candidates.
            resumed: Called once the proposer is restored, with the recorded candidates that it would have proposed
                otherwise.

        Returns:
            Whether the budget is spent: if not, the optimizer had nothing left to ask.

        Raises:
            MachineError: several candidates in a row FAILED, and so did a trial that was measured before, or one before
                any was measured: the engine is at fault, and nothing is journalled of them. Or all candidates FAILED,
                although the engine lives.
            InputError: the journal's candidates are not those that this spec can ask.
        """
        if self._is_all_spent:
            return True
        self.restore_optimizer()
        resumed(self._proposer.differing)
        again = self._history.unmeasured
        known = frozenset(self._history.failed)
        stopwatch, outage = Stopwatch(before_s=self._history.elapsed_s), Outage(can_prove=True)
        while True:
            while (
                pool.idle
                and not outage.needs_proof
                and (candidate := again.pop(0) if again else self._ask(stopwatch.elapsed_s, is_waiting=pool.busy))
            ):
                self._submit(candidate, pool, stopwatch, outage)
            is_last = outage.is_suspected and not pool.busy  # none but these is left to be asked
            if pool.idle and not outage.is_proving and (outage.needs_proof or is_last):
                if (proof := self._proof()) is None:
                    self._record_all(outage.release(), outage, stopwatch)
                    continue
                self._submit(proof, pool, stopwatch, outage, is_proof=True)
            if pool.idle and not pool.busy:
                if self._turns(stopwatch.elapsed_s):
                    continue
                self._is_done = True
                return self._is_spent(stopwatch.elapsed_s) or self._is_stage_spent(stopwatch.elapsed_s)
            result = pool.wait()  # also for a worker that is being replaced, which is neither idle nor busy
            stopwatch.answered(lost_s=result.lost_s / outage.num_workers if result else 0.0)
            if result:
                if result.score.status is Status.FAILED and self._history.first_ok is None:
                    raise MachineError(f"nothing could be measured: {result.score.error}")
                timed = _with_other(result.score, stopwatch.seconds_of(result.job.number))
                number = result.job.number
                is_proof = self._is_measured("search", number)
                heard = outage.hear(replace(result, score=timed), is_proof=is_proof, is_known=number in known)
                self._record_all(heard, outage, stopwatch)

    def _record_all(self, heard: Sequence[JobResult], outage: Outage, stopwatch: Stopwatch) -> None:
        for result in heard:
            if not self._is_measured("search", result.job.number):
                self.record(result, elapsed_s=stopwatch.elapsed_s)
        outage.require_hope()

    def _proof(self) -> Candidate | None:
        """Returns a candidate that was measured and can be measured again; None if the genomes of all were freed."""
        measured = (trial.candidate for trial in self._history.ok_trials)
        return next((c for c in measured if c.recipe is not None or self._proposer.holds(c.number)), None)

    def _submit(
        self, candidate: Candidate, pool: Pool, stopwatch: Stopwatch, outage: Outage, *, is_proof: bool = False
    ) -> None:
        pool.submit(self._job(candidate, "search"))
        stopwatch.submitted(candidate.number)
        outage.submitted(is_proof=is_proof)

    def restore_optimizer(self) -> None:
        """Has the proposer repeat the journal's asks and hear its tells, in their order, unless it has already.

        A search does so itself where it goes on; a caller that needs the optimizer of a finished one does it here.
        """
        if not self._to_replay:
            return
        self._proposer.expect(self._history.candidates.values())
        for record in self._to_replay:
            match record:
                case AskRecord():
                    self._proposer.replay(self._history.candidates[record.number])
                case TellRecord(split="search"):
                    score = record.score(self._history.item_ids["search"])
                    self._tell(record.number, score, record.objectives)
        self._to_replay = ()

    def missing(self, split: SplitName, trials: Sequence[Trial]) -> list[Trial]:
        """Returns the trials that are to be measured on a split."""
        return [
            trial
            for trial in trials
            if not self._is_measured(split, trial.number) and (split, trial.number) not in self._unmeasurable
        ]

    def evaluate_split(self, split: SplitName, trials: Sequence[Trial], pool: Pool) -> None:
        """Evaluates the missing trials on another split, all but those that are `irreproducible`.

        Those that FAILED are evaluated once more at the end. If they FAILED again and a trial that was measured on this
        split can still be, they are `unmeasurable`.

        Raises:
            MachineError: one could not be measured, and no other proves that the engine is not at fault. None of these
                is journalled, and the same command evaluates them again.
        """
        failed = self._evaluate_jobs(split, [self._job(t.candidate, split) for t in self.missing(split, trials)], pool)
        failed = self._evaluate_jobs(split, [result.job for result in failed], pool)
        if failed and self._proof_on(split) is None:  # the split may be at fault, whatever was measured on another
            raise MachineError(
                f"trial {failed[0].job.number} could not be measured on the {split} split: {failed[0].score.error}\n"
                f"{len(failed)} of {len(trials)} models are still to be measured: the same command evaluates them again"
            )
        for result in failed:
            who = self._history.candidates[result.job.number].proposed_by
            self._unmeasurable[split, result.job.number] = (
                f"{who} could not be measured on the {split} split, on which others can be: {result.score.error}"
            )

    def _evaluate_jobs(self, split: SplitName, jobs: list[Job], pool: Pool) -> list[JobResult]:
        """Evaluates jobs of another split; returns those that FAILED, or raises MachineError if that is an outage."""
        failed, outage = list[JobResult](), Outage()
        while True:
            proof = self._proof_on(split) or self._proof_on("search")
            outage.can_prove = proof is not None
            while jobs and pool.idle and not outage.needs_proof:
                pool.submit(jobs.pop(0))
                outage.submitted()
            is_last = outage.is_suspected and not pool.busy
            if proof and pool.idle and not outage.is_proving and (outage.needs_proof or is_last):
                pool.submit(proof)
                outage.submitted(is_proof=True)
            if not jobs and not pool.busy and not (proof and outage.is_suspected):
                return [*failed, *outage.release()]
            if result := pool.wait():  # None when a worker becomes idle
                is_proof = self._is_measured(result.job.split, result.job.number)
                for heard in outage.hear(result, is_proof=is_proof):
                    if heard.score.status is Status.FAILED:
                        failed.append(heard)
                    elif self._is_measured(heard.job.split, heard.job.number):
                        continue  # a proof
                    elif why := self._history.other_weights(heard.job.number, heard.score):
                        self._irreproducible[heard.job.number] = why
                    else:
                        self.record(heard)

    def _proof_on(self, split: SplitName) -> Job | None:
        """Returns a job that has been measured on a split and can be again."""
        measured = (self._history.candidates[n] for n in self._history.scores_of(split) if self._is_measured(split, n))
        found = next((c for c in measured if c.recipe is not None or self._proposer.holds(c.number)), None)
        return None if found is None else self._job(found, split)

    def record(self, result: JobResult, *, elapsed_s: float | None = None) -> None:
        """Journals one result, and only then tells the optimizer and the listener."""
        number, split, score = result.job.number, result.job.split, result.score
        objectives = self._objective_values(score) if score.status is Status.OK else None
        clock = TellClock(
            seconds=score.cost.seconds,
            error=score.error,
            attempts=result.attempts,
            worker=result.worker,
            versions=result.versions,
            elapsed=elapsed_s,
        )
        self._journal.require_untouched()  # else the answers might overwrite those of another run in the folder's place
        self._keep_answers(split, number, score)
        self._write(TellRecord.of(score, number=number, split=split, objectives=objectives, clock=clock))
        if split == "search":
            self._tell(number, self._history.trials[number].score, objectives)
            self._watch(self._history.trials[number], self._history)

    def end(self) -> None:
        """Journals the end of the search if it is complete, unless that is already journalled."""
        if self.is_over and not self._history.is_finished:
            self._write(EndRecord())

    def _job(self, candidate: Candidate, split: SplitName) -> Job:
        genome = self._proposer.genome(candidate.number) if candidate.recipe is None else None
        trial = self._history.trials.get(candidate.number)
        searched = trial.score.fingerprint if trial and split != "search" else None
        return Job(
            number=candidate.number,
            split=split,
            recipe=candidate.recipe,
            genome=genome,
            stage=candidate.stage if candidate.proposed_by.kind == "optimizer" else None,
            fingerprint=searched,
        )

    def _is_measured(self, split: SplitName, number: int) -> bool:
        score = self._history.scores.get((split, number))
        return score is not None and score.status is not Status.FAILED

    def _ask(self, elapsed_s: float, *, is_waiting: bool) -> Candidate | None:
        """Journals the next candidate before any work on it starts; None if there is none, or a budget is spent.

        Args:
            elapsed_s: The search time.
            is_waiting: Whether something is still to be answered: a baseline that FAILED may be evaluated again.
        """
        if self._is_spent(elapsed_s) or (self._are_initial_asked and self._is_stage_spent(elapsed_s)):
            return None
        if (missing := self._missing_criteria()) is not None:
            if is_waiting:
                return None
            raise missing
        candidate = self._proposer.propose()
        if candidate is not None:
            self._write(AskRecord.of(candidate))
        return candidate

    def _turns(self, elapsed_s: float) -> bool:
        """Begins the next search, where one is over and the limits of all are not reached; nothing is unanswered."""
        ended = self._proposer.stage
        if self._is_spent(elapsed_s) or not self._proposer.advance():
            return False
        begun = self._proposer.stage
        assert ended is not None
        assert begun is not None
        self._turned(ended, begun)
        return True

    @property
    def _are_initial_asked(self) -> bool:
        return len(self._history.candidates) >= self._proposer.num_initial

    @property
    def _is_all_spent(self) -> bool:
        """Whether, by its journal, nothing is left to be asked or answered."""
        is_spent = self._is_spent(self._history.elapsed_s) or self._limits.is_last_spent(self._history)
        return is_spent and self._are_initial_asked and not self._history.pending

    def _is_spent(self, elapsed_s: float) -> bool:
        return self._are_initial_asked and self._limits.is_spent(self._history, elapsed_s)

    def _is_stage_spent(self, elapsed_s: float) -> bool:
        stage = self._proposer.stage
        return stage is None or self._limits.is_stage_spent(stage, self._history, elapsed_s)

    def _write(self, record: Record) -> None:
        self._journal.append(record)
        self._history.apply(record)

    def _objective_values(self, score: Score) -> tuple[float, ...]:
        """Returns what the tasks alone give: that is what the journal records."""
        return tuple(objective.plain.of(score.tasks) for objective in self._objectives)

    def _tell(self, number: int, score: Score, found: tuple[float, ...] | None) -> None:
        """Tells the proposer an outcome, as soon as it can be judged."""
        self._held.append((number, score, found))
        if self._history.relative_criteria is None or self._history.relative_criteria.criteria is not None:
            held, self._held = self._held, []
            for one in held:
                self._proposer.tell(self._outcome(*one))

    def _missing_criteria(self) -> InputError | MachineError | None:
        """Returns why candidates cannot be judged, though all baselines have been answered; None if they can."""
        relative_criteria = self._history.relative_criteria
        are_answered = self._are_initial_asked and not self._history.pending
        is_missing = relative_criteria is not None and relative_criteria.criteria is None and are_answered
        return relative_criteria.missing() if relative_criteria is not None and is_missing else None

    def _outcome(self, number: int, score: Score, found: tuple[float, ...] | None) -> Outcome:
        """Returns a score as the optimizer sees it, with every objective to be maximised."""
        excesses, relative_criteria = None, self._history.relative_criteria
        if relative_criteria is not None and found is not None:
            found, outside = relative_criteria.values(score.tasks)
            excesses = outside if relative_criteria.given.constraints else None
        values = found and tuple(
            objective.utility(value) for value, objective in zip(found, self._objectives, strict=True)
        )
        items = item_values(self._objectives, score.tasks) if values else ()
        return Outcome(
            number=number,
            status=score.status,
            values=values,
            items=items,
            slopes=score.slopes,
            excesses=excesses,
        )


def _with_other(score: Score, wall_s: float) -> Score:
    """Adds the remaining time, beyond building and answering, since the worker became free for the candidate."""
    other_s = wall_s - math.fsum(score.cost.seconds.values())
    return replace(score, cost=replace(score.cost, seconds={**score.cost.seconds, "other": max(0.0, other_s)}))
