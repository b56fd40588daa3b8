"""The order of candidates: baselines, warm starts, then the proposals of one search after another.

Its state is a function of the calls made on it, so that replaying a journal's asks and tells restores it. What was
asked, was asked: where an optimizer would propose something else on this machine, it takes the recorded proposal as its
own and goes on from there.
"""

from collections.abc import Iterable, Mapping, Sequence

from crossbreed.optimizer.feasible import off
from crossbreed.runs.search.asking import Asking, Search, described, other_than
from crossbreed.runs.search.baselines import best_tuned_scalar
from crossbreed.search_spaces import Genome
from crossbreed.types import Candidate, Outcome, ProposedBy, Recipe


class Proposer:
    """Numbers the candidates, and begins each search from the best before it."""

    def __init__(
        self, *, seed: int, initial_candidates: Sequence[tuple[ProposedBy, Recipe]], searches: Sequence[Search]
    ) -> None:
        """Starts before the first candidate.

        Args:
            seed: The run's seed.
            initial_candidates: Baselines and warm starts, evaluated before the first search begins.
            searches: The searches, in their order.
        """
        self._seed, self._initial, self._searches = seed, initial_candidates, searches
        self._place = 0
        """The place of the present search."""
        self._asking: Asking | None = None
        """None where that has not begun."""
        self._before: list[Asking] = []
        """The searches that are over: the genomes of their candidates may still be evaluated."""
        self._known: dict[int, Candidate] = {}
        """The candidates that later searches may start from."""
        self._values: dict[int, tuple[float, ...]] = {}
        """Their objectives, where they were measured."""
        self._off: dict[int, float] = {}
        """How far off the constraints they are."""
        self._heard: set[int] = set()
        """The initial candidates that have an outcome."""
        self._recorded: Sequence[Candidate] = ()
        self._next_number = 0

    @property
    def num_initial(self) -> int:
        """The number of candidates before the optimizers'."""
        return len(self._initial)

    @property
    def stage(self) -> int | None:
        """The number of the present search; None if there is none."""
        return self._searches[self._place].number if self._searches else None

    @property
    def differing(self) -> list[int]:
        """The replayed candidates that this machine would have proposed otherwise, by more than rounding."""
        return [number for asking in self._begun for number in asking.differing]

    @property
    def remarks(self) -> list[str]:
        """What the optimizers have said of their searches."""
        return [remark for asking in self._begun for remark in asking.remarks]

    def advance(self) -> bool:
        """Ends the present search, so that the next one begins; returns False if there is none.

        The caller has seen that nothing is left to be answered.
        """
        if self._place + 1 >= len(self._searches):
            return False
        if self._asking is not None:
            self._before.append(self._asking)
        self._place, self._asking = self._place + 1, None
        return True

    def propose(self) -> Candidate | None:
        """Returns the next candidate, or None until more results arrive, or a search is over."""
        number = self._next_number
        if number < len(self._initial):
            candidate: Candidate | None = self._initial_candidate(number)
        else:
            asking = self._started()
            candidate = None if asking is None else asking.ask(number)
        if candidate is not None:
            self._took(candidate)
        return candidate

    def genome(self, number: int) -> Genome:
        """Returns the genome of a candidate that has no recipe."""
        return next(asking for asking in self._begun if asking.holds(number)).genome(number)

    def holds(self, number: int) -> bool:
        """Returns whether the genome of a candidate can still be had."""
        return any(asking.holds(number) for asking in self._begun)

    def tell(self, outcome: Outcome) -> None:
        """Passes on an outcome to the search that it is of; see `Asking.tell`."""
        if outcome.values is not None:
            self._values[outcome.number], self._off[outcome.number] = outcome.values, off(outcome)
        if outcome.number < len(self._initial):
            self._heard.add(outcome.number)
        for asking in self._begun:
            asking.tell(outcome)

    def expect(self, recorded: Iterable[Candidate]) -> None:
        """Prepares for replaying these candidates of a journal, by number: `replay` follows for each."""
        self._recorded = tuple(recorded)

    def replay(self, recorded: Candidate) -> None:
        """Takes a candidate of the journal as proposed.

        Raises:
            InputError: this code and spec propose no such candidate, so continuing would not be the same run.
        """
        number = self._next_number
        if number < len(self._initial):
            proposed = self._initial_candidate(number)
            if proposed != recorded:
                raise other_than(recorded, got=described(proposed))
        else:
            while recorded.stage != self.stage and self.advance():
                pass  # a search is over where the journal has asks of a later one
            asking = self._started()
            if asking is None or recorded.stage != self.stage:
                raise other_than(recorded, got="nothing yet" if asking is None else f"nothing of stage {self.stage}")
            asking.replay(recorded)
        self._took(recorded)

    @property
    def _begun(self) -> list[Asking]:
        return self._before if self._asking is None else [*self._before, self._asking]

    def _took(self, candidate: Candidate) -> None:
        self._next_number += 1
        self._known[candidate.number] = candidate

    def _initial_candidate(self, number: int) -> Candidate:
        proposed_by, recipe = self._initial[number]
        return Candidate(number=number, recipe=recipe, proposed_by=proposed_by)

    def _started(self) -> Asking | None:
        """Returns the present search; None if there is none, and while an initial candidate has no outcome."""
        if self._asking is None and self._searches and len(self._heard) == len(self._initial):
            search = self._searches[self._place]
            ranked = (recipe for number in self._ranked() if (recipe := self._known[number].recipe) is not None)
            self._asking = search.begin(ranked, self._tuned_scalar(), seed=self._seed, first=self._next_number)
            self._asking.expect([candidate for candidate in self._recorded if candidate.stage == search.number])
        return self._asking

    def _ranked(self) -> list[int]:
        """Returns the merges that were measured (single models if none was), best first.

        A lone expert is a corner of the box: good at one skill and bad at the others, and worse in every direction.
        Among equals, warm starts and what was bred come first, then the simplest baseline. Merges that keep the
        constraints come before those that do not, and set the objectives' scales alone.
        """
        by = {number: self._known[number].proposed_by for number in self._values}
        merges = {number: values for number, values in self._values.items() if not by[number].is_single_model}
        known = merges or self._values
        least = min((self._off[number] for number in known), default=0.0)
        sums = _scaled_sums({number: values for number, values in known.items() if self._off[number] == least})
        return sorted(
            known, key=lambda number: (self._off[number], -sums.get(number, 0.0), by[number].is_baseline, number)
        )

    def _tuned_scalar(self) -> float | None:
        """Returns the factor s of the best baseline that merges all experts with s/N."""
        initial = {n: (self._initial[n][0], values) for n, values in self._values.items() if n < len(self._initial)}
        best = best_tuned_scalar(initial, off=self._off)
        return None if best is None else self._initial[best][0].global_scalar


def _scaled_sums(outcomes: Mapping[int, tuple[float, ...]]) -> dict[int, float]:
    """Returns the sum of each candidate's objectives, each scaled to its range, since units differ."""
    columns = list(zip(*outcomes.values(), strict=True))
    spans = [(min(column), max(column) - min(column) or 1.0) for column in columns]
    return {
        number: sum((value - low) / span for value, (low, span) in zip(values, spans, strict=True))
        for number, values in outcomes.items()
    }
