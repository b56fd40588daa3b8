"""One search that is under way: its optimizer, and the recipes or genomes of what it proposes."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from crossbreed.errors import InputError
from crossbreed.optimizer import Breeder, Optimizer, Remarking, ordered, replayed
from crossbreed.runs.record.records import damaged
from crossbreed.runs.search.proposals import check_proposal, is_rounding
from crossbreed.search_spaces import Genome, SearchSpace
from crossbreed.types import Box, Candidate, Outcome, Point, ProposedBy, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search that may begin."""

    optimizer: str
    """The kind of the optimizer, recorded with its candidates."""
    space_around: Callable[[Recipe | None], SearchSpace]
    """Returns the space, around a recipe if it is of that kind; called with None where no recipe will do."""
    make_optimizer: Callable[[SearchSpace, Point | None, float | None], Optimizer]
    """Called once, with the space, the start of the search and the best tuned scalar: see `SearchInputs`."""
    number: int = 0
    """Recorded with its candidates, where it is not 0."""
    reads_violations: bool = False
    """Whether the optimizer knows constraints; else it is told values that alone say what comes first."""

    def begin(self, ranked: Iterable[Recipe], tuned_scalar: float | None, *, seed: int, first: int) -> "Asking":
        """Begins at the first of some recipes that the space can express.

        Args:
            ranked: The recipes that were measured before, best first.
            tuned_scalar: The best tuned scalar.
            seed: The run's seed.
            first: The number of the first candidate.
        """
        for recipe in ranked:
            space = self.space_around(recipe)
            if (start := space.encode(recipe)) is not None:
                break
        else:
            space, start = self.space_around(None), None
        optimizer = self.make_optimizer(space, start, tuned_scalar)
        return Asking(self, space, optimizer, seed=seed, first=first)


class Asking:
    """A search that has begun. It tells the optimizer outcomes in the order that it declares."""

    def __init__(self, search: Search, space: SearchSpace, optimizer: Optimizer, *, seed: int, first: int) -> None:
        self.stage = search.number
        self._domain, self._decoder = space.domain, space.decoder(seed=seed)
        self._proposed_by = ProposedBy(kind="optimizer", name=search.optimizer)
        self._optimizer, self._reads_violations = optimizer, search.reads_violations
        self._breeder = optimizer if isinstance(optimizer, Breeder) else None
        """The optimizer, if it lists the candidates to which it may still refer."""
        self._waiting: dict[int, Outcome] = {}
        """Outcomes that arrived before those of earlier candidates, for an optimizer that requires order."""
        self._held: set[int] = set()
        """The candidates whose genomes were not freed."""
        self._unanswered: set[int] = set()
        """The candidates without an outcome yet."""
        self._num_references: Counter[int] = Counter()
        """Number -> how often the candidates still to be replayed name it as a parent; only those they name."""
        self._recorded_parents: set[int] = set()
        """Those of them that have been replayed: their genomes are kept, whatever the optimizer says."""
        self.differing: list[int] = []
        """The replayed candidates that this machine would have proposed otherwise, by more than rounding."""
        self._next_told = first

    @property
    def remarks(self) -> Sequence[str]:
        """What the optimizer has said of its search."""
        return self._optimizer.remarks if isinstance(self._optimizer, Remarking) else ()

    def ask(self, number: int) -> Candidate | None:
        """Returns the next candidate, or None until more results arrive."""
        if (proposal := self._optimizer.ask(number)) is None:
            return None
        check_proposal(proposal, self._domain, optimizer=self._proposed_by.name, number=number)
        recipe = self._decoder.create(number, proposal)
        if not isinstance(self._domain, Box):
            self._held.add(number)
        self._unanswered.add(number)
        return Candidate(
            number=number, recipe=recipe, proposed_by=self._proposed_by, proposal=proposal, stage=self.stage
        )

    def genome(self, number: int) -> Genome:
        """Returns the genome of a candidate that has no recipe."""
        return self._decoder.genome(number)

    def holds(self, number: int) -> bool:
        """Returns whether the genome of a candidate can still be had."""
        return number in self._held

    def tell(self, outcome: Outcome) -> None:
        """Passes on an outcome: at once, or in candidate order if the optimizer requires it.

        Each candidate's first outcome counts: one that FAILED and was measured later is not told again, for the
        optimizer has gone on.
        """
        if outcome.number not in self._unanswered:
            return
        self._unanswered.remove(outcome.number)
        if not self._reads_violations:
            outcome = ordered(outcome)
        if self._optimizer.in_order:
            self._waiting[outcome.number] = outcome
            while (following := self._waiting.pop(self._next_told, None)) is not None:
                self._optimizer.tell(following)
                self._next_told += 1
        else:
            self._optimizer.tell(outcome)
        if self._breeder is not None:
            kept = self._unanswered.union(self._waiting, self._breeder.parents, self._recorded_parents)
            self._decoder.retain(kept)
            self._held &= kept

    def expect(self, recorded: Sequence[Candidate]) -> None:
        """Prepares for replaying these candidates of a journal."""
        for candidate in recorded:
            self._num_references.update(candidate.parents)

    def replay(self, recorded: Candidate) -> None:
        """Takes a candidate of the journal as asked.

        Raises:
            InputError: this code and spec propose no such candidate, so continuing would not be the same run.
        """
        number, proposal, name = recorded.number, recorded.proposal, self._proposed_by.name
        if proposal is None or recorded.proposed_by != self._proposed_by:
            raise other_than(recorded, got=f"a proposal of `{name}`")
        try:
            check_proposal(proposal, self._domain, optimizer=name, number=number)
        except (TypeError, ValueError) as error:
            raise damaged(f"the `ask` of trial {number}", str(error)) from None
        own = replayed(self._optimizer, number, proposal)
        if own is None:
            raise other_than(recorded, got="nothing")
        if own != proposal and not is_rounding(own, proposal):
            self.differing.append(number)
        if lost := [parent for parent in recorded.parents if not self.holds(parent)]:
            raise damaged(f"the `ask` of trial {number}", f"parent {lost[0]}, which is no genome of its stage")
        if not isinstance(self._domain, Box):  # a point is decoded alone, a genome from its parents
            self._decoder.create(number, proposal)
            self._held.add(number)
        for parent in recorded.parents:
            self._num_references[parent] -= 1
            if not self._num_references[parent]:
                self._recorded_parents.discard(parent)
        if self._num_references[number]:
            self._recorded_parents.add(number)
        self._unanswered.add(number)


def other_than(recorded: Candidate, *, got: str) -> InputError:
    """Returns the error of a recorded candidate that this spec does not propose."""
    return InputError(
        f"trial {recorded.number} of the journal is not the one that this spec proposes",
        expected=described(recorded),
        got=got,
        fix="`crossbreed report` and `crossbreed publish` need no optimizer and still work; to search on, use the "
        "versions of crossbreed and its libraries that started the run (`clock` in the journal's first line), or start "
        "a new run folder with the best recipes as `warm_start`",
    )


def described(candidate: Candidate) -> str:
    """Returns a candidate in words."""
    where = candidate.proposal
    return f"{where}" if candidate.recipe is None else f"recipe {candidate.recipe.id} at {where}"
