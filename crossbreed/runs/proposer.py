"""Which candidate comes next: baselines, warm starts, then what the optimizer asks.

A pure function of the calls made on it, so that replaying a journal's asks and tells brings it back to where it was.
"""

from collections.abc import Callable, Sequence

from crossbreed.errors import InputError
from crossbreed.optimizer import Breeder, Optimizer
from crossbreed.runs.baselines import PREFIX, is_lone, scalar_of
from crossbreed.runs.nursery import Nursery
from crossbreed.search_spaces import Genome, SearchSpace
from crossbreed.types import Birth, Candidate, Cross, Outcome, Point, Recipe, Seed


class Proposer:
    """Numbers the candidates and speaks to the optimizer in the order that the optimizer promises."""

    def __init__(
        self,
        *,
        space: SearchSpace | Nursery,
        firsts: Sequence[tuple[str, Recipe]],
        make_optimizer: Callable[[Point | None, float | None], Optimizer | Breeder],
        origin: str,
    ) -> None:
        """Starts with nothing asked.

        Args:
            space: Decodes the optimizer's points, or carries out its births.
            firsts: (origin, recipe) of the baselines and warm starts, answered before the optimizer starts.
            make_optimizer: Called once, when all of `firsts` have been told, with the best of them, encoded, and the
                best tuned scalar.
            origin: What the optimizer's candidates are marked with.
        """
        self._space, self._firsts, self._make_optimizer, self._origin = space, firsts, make_optimizer, origin
        self._optimizer: Optimizer | Breeder | None = None
        self._breeder: Breeder | None = None
        """The optimizer, where it is one of genomes."""
        self._first_outcomes: dict[int, Outcome] = {}
        self._waiting: dict[int, Outcome] = {}
        """Outcomes that came before those of earlier candidates, for an optimizer told in order."""
        self._unanswered: set[int] = set()
        """What the optimizer asked and was not told."""
        self._next_number = 0
        self._next_told = len(firsts)

    @property
    def num_firsts(self) -> int:
        """Candidates that are not the optimizer's."""
        return len(self._firsts)

    @property
    def num_asked(self) -> int:
        """Candidates proposed so far."""
        return self._next_number

    def propose(self) -> Candidate | None:
        """Returns the next candidate, or None until more results come."""
        number = self._next_number
        if number < len(self._firsts):
            origin, recipe = self._firsts[number]
            candidate = Candidate(number=number, recipe=recipe, origin=origin)
        else:
            if self._optimizer is None:
                if len(self._first_outcomes) < len(self._firsts):
                    return None
                ranked = self._ranked()
                self._optimizer = self._make_optimizer(self._start(ranked), self._tuned_scalar(ranked))
                self._breeder = self._optimizer if isinstance(self._optimizer, Breeder) else None
            asked = self._optimizer.ask(number)
            if asked is None:
                return None
            candidate = self._candidate(number, asked)
            self._unanswered.add(number)
        self._next_number += 1
        return candidate

    def genome(self, number: int) -> Genome:
        """Returns the genome of a candidate that has no recipe."""
        assert isinstance(self._space, Nursery)
        return self._space.genome(number)

    def tell(self, outcome: Outcome) -> None:
        """Passes an outcome on: at once, or in candidate order to an optimizer that promises it."""
        if outcome.number < len(self._firsts):
            self._first_outcomes[outcome.number] = outcome
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
        if isinstance(self._space, Nursery):
            assert self._breeder is not None
            self._space.keep(self._unanswered.union(self._waiting, self._breeder.parents))

    def replay(self, recorded: Candidate) -> None:
        """Proposes again what a journal says was asked.

        Raises:
            InputError: this code and spec propose something else, so going on would not be the same run.
        """
        proposed = self.propose()
        if proposed != recorded:
            raise InputError(
                f"trial {recorded.number} of the journal is not what this spec asks",
                expected=_described(recorded),
                got="nothing" if proposed is None else _described(proposed),
                fix="go on with the versions of crossbreed and its libraries that began the run (`clock` of the "
                "journal's first line), or start a new run folder",
            )

    def _candidate(self, number: int, asked: Point | Birth) -> Candidate:
        if isinstance(asked, Seed | Cross):
            assert isinstance(self._space, Nursery)
            recipe = self._space.bear(number, asked)
            return Candidate(number=number, recipe=recipe, origin=self._origin, birth=asked)
        assert not isinstance(self._space, Nursery)
        return Candidate(number=number, recipe=self._space.decode(asked), origin=self._origin, point=asked)

    def _ranked(self) -> list[int]:
        """The merges among the firsts, best first, over all objectives; lone models only where no merge was measured.

        A lone expert is a corner of the box: whole at one skill, nothing at the others, and worse in every direction.
        Of equals a warm start comes first, then the plainest baseline.
        """
        measured = {o.number: o.values for o in self._first_outcomes.values() if o.values is not None}
        merges = {number: values for number, values in measured.items() if not is_lone(self._firsts[number][0])}
        outcomes = merges or measured
        columns = list(zip(*outcomes.values(), strict=True))
        spans = [(min(column), max(column) - min(column) or 1.0) for column in columns]  # objectives differ in unit

        def rank(number: int) -> tuple[float, bool, int]:
            value = sum((v - low) / span for v, (low, span) in zip(outcomes[number], spans, strict=True))
            return -value, self._firsts[number][0].startswith(PREFIX), number

        return sorted(outcomes, key=rank)

    def _start(self, ranked: Sequence[int]) -> Point | None:
        """The best that the space can express."""
        if isinstance(self._space, Nursery):
            return None
        points = (self._space.encode(self._firsts[number][1]) for number in ranked)
        return next((point for point in points if point is not None), None)

    def _tuned_scalar(self, ranked: Sequence[int]) -> float | None:
        """The factor s of the best baseline that merges all experts with s/N."""
        scalars = (scalar_of(self._firsts[number][0]) for number in ranked)
        return next((scalar for scalar in scalars if scalar is not None), None)


def _described(candidate: Candidate) -> str:
    where = candidate.birth or candidate.point
    return f"{where}" if candidate.recipe is None else f"recipe {candidate.recipe.id} at {where}"
