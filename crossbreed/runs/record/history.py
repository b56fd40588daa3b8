"""The state of a run, folded from its journal: candidates, scores on each split, published trials."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from crossbreed.errors import InputError
from crossbreed.runs.record.recomputed import first_disagreement, recorded_objectives
from crossbreed.runs.record.records import (
    AskRecord,
    EndRecord,
    ItemIds,
    PublishRecord,
    Record,
    RunRecord,
    SplitName,
    TellRecord,
    damaged,
)
from crossbreed.runs.record.relative_criteria import RelativeCriteria
from crossbreed.runs.record.uncollected import uncollected
from crossbreed.runs.spec.criteria import Criteria
from crossbreed.runs.spec.objectives import Objective, Scores
from crossbreed.types import Candidate, ItemScores, Score, Status, Trial


@dataclass(slots=True)
class History:
    """The state after some records. `apply` takes the records after the first, in journal order."""

    item_ids: ItemIds
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Task of which only means are told -> split -> number of its items."""
    objectives: Sequence[tuple[Objective, ...]] = ()
    """What `objectives` of a journal's tells are checked against, see `recorded_objectives`; empty: not checked."""
    candidates: dict[int, Candidate] = field(default_factory=dict)
    scores: dict[tuple[SplitName, int], Score] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    """Number -> candidate with its score on the search split."""
    failed: set[int] = field(default_factory=set)
    """The trials whose last score on the search split is FAILED."""
    elapsed_s: float = 0.0
    """Search time, over all resumes."""
    is_finished: bool = False
    """Whether an `end` follows the last `ask`, and what was measured on the search split."""
    stage: int | None = None
    """The number of the search that asked last; None while none has."""
    num_asked: Counter[int] = field(default_factory=Counter)
    """Stage -> candidates that its optimizer asked for."""
    num_told: Counter[int] = field(default_factory=Counter)
    """Stage -> those of them that have a score on the search split."""
    began_s: dict[int, float] = field(default_factory=dict)
    """Stage -> search time at its first ask."""
    published: list[PublishRecord] = field(default_factory=list)
    """Published trials and their folders, newest last."""
    relative_criteria: RelativeCriteria | None = None
    """Values of trials, where a trial's own tell does not say all; see `measure_by`."""

    def measure_by(self, criteria: Criteria) -> None:
        """Has trials judged by criteria that a tell alone does not decide: those known by now, and those to come."""
        if criteria.are_plain or (self.relative_criteria is not None and self.relative_criteria.given == criteria):
            return
        self.relative_criteria = RelativeCriteria(criteria)
        self._measure_all()

    def _measure_all(self) -> None:
        assert self.relative_criteria is not None, "there are criteria"
        self.relative_criteria.look(self.candidates.values(), self.trials)
        self.trials = {number: self.relative_criteria.measured(trial) for number, trial in self.trials.items()}

    def bound(self, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        """Returns the run's objectives as they are bound to its baselines, where any is relative to them."""
        found = self.relative_criteria and self.relative_criteria.criteria
        return found.objectives if found else objectives

    def base_on(self, split: SplitName) -> Scores | None:
        """Returns the base's scores on a split, where something is relative to them."""
        return None if self.relative_criteria is None else self.relative_criteria.base_on(self.scores_of(split))

    def num_items(self, split: str) -> dict[str, int]:
        """Returns task -> number of its items in a split."""
        tasks = self.item_ids.get(split, {})
        return {task: self.counts.get(task, {}).get(split, len(ids)) for task, ids in tasks.items()}

    def extend(self, records: Iterable[Record], *, first_line: int = 2) -> None:
        """Applies the records of a journal.

        Args:
            records: All after the first record, or some that follow on those that were applied.
            first_line: The line of the first of them, for messages.

        Raises:
            InputError: a record is inconsistent with those before it; the message names its line.
        """
        lines, told = list[int](), list[tuple[tuple[float, ...], Mapping[str, ItemScores]]]()
        with uncollected():
            for line, record in enumerate(records, start=first_line):
                try:
                    self.apply(record)
                except ValueError as error:
                    raise damaged(f"line {line}", str(error)) from None
                if isinstance(record, TellRecord) and record.objectives is not None and record.tasks:
                    lines.append(line)
                    told.append((record.objectives, self.scores[record.split, record.number].tasks))
        if found := first_disagreement(told, self.objectives):
            raise damaged(f"line {lines[found[0]]}", found[1])

    def apply(self, record: Record) -> None:
        """Applies one record.

        Raises:
            ValueError: the record is inconsistent with those before it.
        """
        match record:
            case AskRecord():
                self._ask(record.candidate)
            case TellRecord():
                self._tell(record)
            case PublishRecord():
                self.published.append(record)
            case EndRecord():
                self.is_finished = True
            case RunRecord():
                raise ValueError("a second record of kind `run`")

    def _ask(self, candidate: Candidate) -> None:
        if candidate.number != len(self.candidates):
            raise ValueError(f"candidate {candidate.number}, expected {len(self.candidates)}")
        if candidate.proposed_by.kind == "optimizer":
            if candidate.stage < (self.stage or 0):
                raise ValueError(f"candidate {candidate.number} of stage {candidate.stage}, after stage {self.stage}")
            self.stage = candidate.stage
            self.num_asked[candidate.stage] += 1
            self.began_s.setdefault(candidate.stage, self.elapsed_s)
        self.candidates[candidate.number] = candidate
        self.is_finished = False

    def _tell(self, record: TellRecord) -> None:
        split, number = record.split, record.number
        if number not in self.candidates:
            raise ValueError(f"a score of candidate {number}, which was not asked")
        score = record.score(self.item_ids.get(split, {}))
        if split == "search":
            if number in self.trials and number not in self.failed:
                raise ValueError(f"a second score of candidate {number} on the search split")
            if number not in self.trials and self.candidates[number].proposed_by.kind == "optimizer":
                self.num_told[self.candidates[number].stage] += 1
            clock = record.clock
            self.elapsed_s = max(self.elapsed_s, clock.elapsed or 0.0)
            known = {"attempts": clock.attempts, "worker": clock.worker}
            self.trials[number] = Trial(
                candidate=self.candidates[number],
                score=score,
                objectives=record.objectives,
                provenance={name: str(value) for name, value in known.items() if value is not None},
            )
            if self.relative_criteria is not None:
                if self.candidates[number].proposed_by.is_untuned:
                    self._measure_all()
                else:
                    self.trials[number] = self.relative_criteria.measured(self.trials[number])
            if score.status is Status.FAILED:
                self.failed.add(number)
            else:
                self.failed.discard(number)
                self.is_finished = False  # measured late, it may be the winner
        self.scores[split, number] = score

    def num_measured(self, stage: int) -> int:
        """Returns how many of a stage's candidates count in its budget: all but those that FAILED."""
        failed = (self.candidates[number] for number in self.failed)
        lost = sum(c.stage == stage for c in failed if c.proposed_by.kind == "optimizer")
        return self.num_asked[stage] - lost

    def other_weights(self, number: int, score: Score) -> str | None:
        """Returns what to say of a score whose weights are not those of the trial in the search; None if they are.

        An engine that takes recipes may not provide a fingerprint: then there is nothing to compare.
        """
        searched = self.trials[number].score.fingerprint
        if searched is None or score.fingerprint is None or score.fingerprint == searched:
            return None
        return (
            f"the weights of trial {number} had fingerprint {searched} in the search, but its recipe now gives "
            f"{score.fingerprint}: to measure it, use the same sources, versions of crossbreed and torch, processor "
            "and number of threads as in the search (if the engine makes the weights: the same version of it)"
        )

    def publishable(self, number: int, *, where: str) -> Trial:
        """Returns a trial that has a value.

        Raises:
            InputError: there is none of this number.
        """
        trial = self.trials.get(number)
        if trial is None or trial.score.status is not Status.OK:
            unknown = "not answered yet" if number in self.candidates else "no such trial"
            raise InputError(
                f"trial {number} has no value",
                expected="a trial whose status is OK",
                got=trial.score.status if trial else unknown,
                where=where,
            )
        return trial

    @property
    def pending(self) -> list[Candidate]:
        """Candidates without a score on the search split, which were in flight when the last driver ended."""
        return [c for number, c in sorted(self.candidates.items()) if number not in self.trials]

    @property
    def unmeasured(self) -> list[Candidate]:
        """The pending candidates and those that FAILED, to be evaluated (again) when a search goes on."""
        found = [c for n, c in self.candidates.items() if n not in self.trials or (n in self.failed and c.recipe)]
        return sorted(found, key=lambda candidate: candidate.number)

    def scores_of(self, split: SplitName) -> dict[int, Score]:
        """Returns trial number -> score on a split."""
        return {number: score for (where, number), score in self.scores.items() if where == split}

    @property
    def all_trials(self) -> list[Trial]:
        """Trials of the search, by number."""
        return [trial for _, trial in sorted(self.trials.items())]

    @property
    def first_ok(self) -> Trial | None:
        """The trial that had a value first; None if nothing could be measured yet."""
        return next((trial for trial in self.trials.values() if trial.score.status is Status.OK), None)

    @property
    def ok_trials(self) -> list[Trial]:
        """Trials that have a value, by number."""
        return [trial for trial in self.all_trials if trial.score.status is Status.OK]


def fold(records: Iterable[Record]) -> History:
    """Returns the state after all records of a journal. The first record has the item ids."""
    following = iter(records)
    first = next(following, None)
    history = begin(first) if isinstance(first, RunRecord) else History(item_ids={})
    history.extend(following)
    return history


def begin(run: RunRecord) -> History:
    """Returns the state after the first record."""
    return History(item_ids=run.items, counts=run.counts, objectives=recorded_objectives(run))
