"""The order of candidates: baselines, warm starts, then the optimizer's proposals.

Its state is a function of the calls made on it, so that replaying a journal's asks and tells restores it. What was
asked, was asked: where an optimizer would propose something else on this machine, it takes the recorded proposal as its
own and goes on from there.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from crossbreed.errors import InputError
from crossbreed.optimizer import Breeder, Optimizer, replayed
from crossbreed.runs.record.records import damaged
from crossbreed.runs.search.baselines import best_tuned_scalar
from crossbreed.runs.search.proposals import check_proposal, is_rounding
from crossbreed.search_spaces import Genome, SearchSpace
from crossbreed.types import Box, Candidate, Outcome, Point, ProposedBy, Recipe


class Proposer:
    """Numbers the candidates, and tells the optimizer outcomes in the order that it declares."""

    def __init__(
        self,
        *,
        space: SearchSpace,
        seed: int,
        initial_candidates: Sequence[tuple[ProposedBy, Recipe]],
        make_optimizer: Callable[[Point | None, float | None], Optimizer],
        optimizer: str,
    ) -> None:
        """Starts before the first candidate.

        Args:
            space: Decodes the optimizer's proposals.
            seed: The run's seed.
            initial_candidates: Baselines and warm starts, evaluated before the optimizer starts.
            make_optimizer: Called once, when the outcomes of all initial candidates are known, with the start of the
                search and the best tuned scalar: see `SearchInputs`.
            optimizer: Kind of the optimizer, recorded with its candidates.
        """
        self._space, self._domain, self._decoder = space, space.domain, space.decoder(seed=seed)
        self._initial, self._make_optimizer = initial_candidates, make_optimizer
        self._proposed_by = ProposedBy(kind="optimizer", name=optimizer)
        self._optimizer: Optimizer | None = None
        self._breeder: Breeder | None = None
        """The optimizer, if it lists the candidates to which it may still refer."""
        self._initial_outcomes: dict[int, Outcome] = {}
        self._waiting: dict[int, Outcome] = {}
        """Outcomes that arrived before those of earlier candidates, for an optimizer that requires order."""
        self._held: set[int] = set()
        """The candidates whose genomes were not freed."""
        self._unanswered: set[int] = set()
        """The optimizer's candidates without an outcome yet."""
        self._num_references: Counter[int] = Counter()
        """Number -> how often the candidates still to be replayed name it as a parent; only those they name."""
        self._recorded_parents: set[int] = set()
        """Those of them that have been replayed: their genomes are kept, whatever the optimizer says."""
        self.differing: list[int] = []
        """The replayed candidates that this machine would have proposed otherwise, by more than rounding."""
        self._next_number = 0
        self._next_told = len(initial_candidates)

    @property
    def num_initial(self) -> int:
        """The number of candidates before the optimizer's."""
        return len(self._initial)

    def propose(self) -> Candidate | None:
        """Returns the next candidate, or None until more results arrive."""
        number = self._next_number
        candidate = self._initial_candidate(number) if number < len(self._initial) else self._ask(number)
        if candidate is not None:
            self._next_number += 1
        return candidate

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
        if outcome.number < len(self._initial):
            if self._optimizer is None:
                self._initial_outcomes[outcome.number] = outcome
            return
        if outcome.number not in self._unanswered:
            return
        assert self._optimizer is not None
        self._unanswered.remove(outcome.number)
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

    def expect(self, recorded: Iterable[Candidate]) -> None:
        """Prepares for replaying these candidates of a journal, by number: `replay` follows for each."""
        for candidate in recorded:
            self._num_references.update(candidate.parents)

    def replay(self, recorded: Candidate) -> None:
        """Takes a candidate of the journal as proposed.

        Raises:
            InputError: this code and spec propose no such candidate, so continuing would not be the same run.
        """
        number = self._next_number
        if number < len(self._initial):
            proposed = self._initial_candidate(number)
            if proposed != recorded:
                raise _other(recorded, got=_described(proposed))
        else:
            self._replay_ask(number, recorded)
        self._next_number += 1

    def _replay_ask(self, number: int, recorded: Candidate) -> None:
        optimizer, proposal, name = self._started(), recorded.proposal, self._proposed_by.name
        if optimizer is None or proposal is None or recorded.proposed_by != self._proposed_by:
            raise _other(recorded, got=f"a proposal of `{name}`" if optimizer else "nothing yet")
        try:
            check_proposal(proposal, self._domain, optimizer=name, number=number)
        except (TypeError, ValueError) as error:
            raise damaged(f"the `ask` of trial {number}", str(error)) from None
        own = replayed(optimizer, number, proposal)
        if own is None:
            raise _other(recorded, got="nothing")
        if own != proposal and not is_rounding(own, proposal):
            self.differing.append(number)
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

    def _initial_candidate(self, number: int) -> Candidate:
        proposed_by, recipe = self._initial[number]
        return Candidate(number=number, recipe=recipe, proposed_by=proposed_by)

    def _ask(self, number: int) -> Candidate | None:
        optimizer = self._started()
        if optimizer is None or (proposal := optimizer.ask(number)) is None:
            return None
        check_proposal(proposal, self._domain, optimizer=self._proposed_by.name, number=number)
        recipe = self._decoder.create(number, proposal)
        if not isinstance(self._domain, Box):
            self._held.add(number)
        self._unanswered.add(number)
        return Candidate(number=number, recipe=recipe, proposed_by=self._proposed_by, proposal=proposal)

    def _started(self) -> Optimizer | None:
        """Returns the optimizer; None while an initial candidate has no outcome."""
        if self._optimizer is None and len(self._initial_outcomes) == len(self._initial):
            self._optimizer = self._make_optimizer(self._start(), self._tuned_scalar())
            self._breeder = self._optimizer if isinstance(self._optimizer, Breeder) else None
        return self._optimizer

    def _ranked(self) -> list[int]:
        """Returns the merges among the initial candidates (single models if no merge was measured), best first.

        A lone expert is a corner of the box: good at one skill and bad at the others, and worse in every direction.
        Among equals, warm starts come first, then the simplest baseline.
        """
        measured = self._measured()
        merges = {number: v for number, v in measured.items() if not self._initial[number][0].is_single_model}
        sums = _scaled_sums(merges or measured)
        return sorted(sums, key=lambda number: (-sums[number], self._initial[number][0].is_baseline, number))

    def _measured(self) -> dict[int, tuple[float, ...]]:
        """Returns the objectives of the initial candidates that have some."""
        return {o.number: o.values for o in self._initial_outcomes.values() if o.values is not None}

    def _start(self) -> Point | None:
        """Returns the point of the best candidate that the space can express."""
        points = (self._space.encode(self._initial[number][1]) for number in self._ranked())
        return next((point for point in points if point is not None), None)

    def _tuned_scalar(self) -> float | None:
        """Returns the factor s of the best baseline that merges all experts with s/N."""
        best = best_tuned_scalar({n: (self._initial[n][0], values) for n, values in self._measured().items()})
        return None if best is None else self._initial[best][0].global_scalar


def _scaled_sums(outcomes: Mapping[int, tuple[float, ...]]) -> dict[int, float]:
    """Returns the sum of each candidate's objectives, each scaled to its range, since units differ."""
    columns = list(zip(*outcomes.values(), strict=True))
    spans = [(min(column), max(column) - min(column) or 1.0) for column in columns]
    return {
        number: sum((value - low) / span for value, (low, span) in zip(values, spans, strict=True))
        for number, values in outcomes.items()
    }


def _other(recorded: Candidate, *, got: str) -> InputError:
    return InputError(
        f"trial {recorded.number} of the journal is not the one that this spec proposes",
        expected=_described(recorded),
        got=got,
        fix="`crossbreed report` and `crossbreed publish` need no optimizer and still work; to search on, use the "
        "versions of crossbreed and its libraries that started the run (`clock` in the journal's first line), or start "
        "a new run folder with the best recipes as `warm_start`",
    )


def _described(candidate: Candidate) -> str:
    where = candidate.proposal
    return f"{where}" if candidate.recipe is None else f"recipe {candidate.recipe.id} at {where}"
