"""What trials are worth by criteria that need the baselines: known once these are measured, and never journalled.

A journal records what each trial's own tasks give. What is relative to the base or the experts, and whether constraints
hold, follows from that and from the baselines' records, whatever their order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from crossbreed.errors import InputError, MachineError
from crossbreed.runs.spec.criteria import Criteria
from crossbreed.runs.spec.objectives import Scores
from crossbreed.types import Candidate, Score, Status, Trial


class RelativeCriteria:
    """The criteria of a run, bound to its baselines as soon as these are measured."""

    def __init__(self, criteria: Criteria) -> None:
        """Knows no baseline yet."""
        self.given = criteria
        """As the spec has them."""
        self.criteria: Criteria | None = None if criteria.needs_base else criteria
        """Bound to the baselines; None while one of them is missing."""
        self.base_number: int | None = None
        """The number of the base's trial, where its scores are needed and known."""
        self.refusal: InputError | None = None
        """Why what the baselines tell will not do."""
        self._base: Scores | None = None

    def look(self, candidates: Iterable[Candidate], trials: Mapping[int, Trial]) -> None:
        """Takes what is known of the baselines."""
        self.criteria, self.refusal, self._base = None if self.given.needs_base else self.given, None, None
        if self.criteria is not None:
            return
        by = {c.number: c.proposed_by for c in candidates}
        bases = [number for number, who in by.items() if who.kind == "base"]
        named = {number: who.name for number, who in by.items() if who.kind == "expert"}
        uniform = {number: who.label for number, who in by.items() if who.kind == "uniform"}
        experts = named or uniform  # a lone expert is asked as the uniform average
        measured = {n: t.score.tasks for n, t in trials.items() if t.score.status is Status.OK}
        if not bases or bases[0] not in measured:
            return
        wanted = [*bases, *uniform, *experts] if self.given.needs_experts else bases
        if any(number not in trials or trials[number].score.status is Status.FAILED for number in wanted):
            return
        if self.given.needs_experts and (not uniform or not measured.keys() & experts.keys()):
            return
        known = {name: measured[number] for number, name in experts.items() if number in measured}
        self.base_number, self._base = bases[0], measured[bases[0]]
        try:
            self.criteria = self.given.bound_to(self._base, known)
        except InputError as error:
            self.refusal = error

    def measured(self, trial: Trial) -> Trial:
        """Returns a trial with its values; without any while a baseline is missing for them."""
        if trial.score.status is not Status.OK:
            return trial
        if self.criteria is None:
            has_relative = any(objective.needs_base for objective in self.given.objectives)
            return replace(trial, objectives=None if has_relative else trial.objectives, excesses=None)
        values, excesses = self.values(trial.score.tasks)
        return replace(trial, objectives=values, excesses=excesses)

    def values(self, scores: Scores) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns the objectives of some scores on the search items, and how far outside the constraints."""
        assert self.criteria is not None, "the baselines are known"
        return self.criteria.judged(scores, self._base)

    def base_on(self, scores: Mapping[int, Score]) -> Scores | None:
        """Returns the base's scores among those of a split; None: it is not needed, or was not measured there."""
        found = None if self.base_number is None else scores.get(self.base_number)
        return found.tasks if found is not None and found.status is Status.OK else None

    @property
    def needs_base(self) -> bool:
        """Whether every split needs the base's scores."""
        return self.given.needs_base

    def missing(self) -> InputError | MachineError:
        """Returns why nothing can be judged, though all baselines have been answered."""
        return self.refusal or MachineError(
            "a baseline has no value on the search items, and objectives or constraints are relative to it: log.txt "
            "says why\nif it FAILED, the same command evaluates it again; INVALID is what its own weights are"
        )
