"""Which candidate comes next: baselines, warm starts, then what the optimizer asks.

A pure function of the calls made on it, so that replaying a journal's asks and tells brings it back to where it was.
"""

from collections.abc import Callable, Sequence

from crossbreed.errors import InputError
from crossbreed.optimizer import Optimizer
from crossbreed.runs.baselines import is_lone
from crossbreed.search_spaces import SearchSpace
from crossbreed.types import Candidate, Outcome, Point, Recipe


class Proposer:
    """Numbers the candidates and speaks to the optimizer in the order that the optimizer promises."""

    def __init__(
        self,
        *,
        space: SearchSpace,
        firsts: Sequence[tuple[str, Recipe]],
        make_optimizer: Callable[[Point | None], Optimizer],
        origin: str,
    ) -> None:
        """Starts with nothing asked.

        Args:
            space: Decodes the optimizer's points.
            firsts: (origin, recipe) of the baselines and warm starts, answered before the optimizer starts.
            make_optimizer: Called once with the best of `firsts`, encoded, when all of them have been told.
            origin: What the optimizer's candidates are marked with.
        """
        self._space, self._firsts, self._make_optimizer, self._origin = space, firsts, make_optimizer, origin
        self._optimizer: Optimizer | None = None
        self._first_outcomes: dict[int, Outcome] = {}
        self._waiting: dict[int, Outcome] = {}
        """Outcomes that came before those of earlier candidates, for an optimizer told in order."""
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
                self._optimizer = self._make_optimizer(self._start())
            point = self._optimizer.ask(number)
            if point is None:
                return None
            candidate = Candidate(number=number, recipe=self._space.decode(point), origin=self._origin, point=point)
        self._next_number += 1
        return candidate

    def tell(self, outcome: Outcome) -> None:
        """Passes an outcome on: at once, or in candidate order to an optimizer that promises it."""
        if outcome.number < len(self._firsts):
            self._first_outcomes[outcome.number] = outcome
            return
        assert self._optimizer is not None
        if not self._optimizer.in_order:
            self._optimizer.tell(outcome)
            return
        self._waiting[outcome.number] = outcome
        while (following := self._waiting.pop(self._next_told, None)) is not None:
            self._optimizer.tell(following)
            self._next_told += 1

    def replay(self, recorded: Candidate) -> None:
        """Proposes again what a journal says was asked.

        Raises:
            InputError: this code and spec propose something else, so going on would not be the same run.
        """
        proposed = self.propose()
        if proposed != recorded:
            raise InputError(
                f"trial {recorded.number} of the journal is not what this spec asks",
                expected=f"recipe {recorded.recipe.id} at {recorded.point}",
                got="nothing" if proposed is None else f"recipe {proposed.recipe.id} at {proposed.point}",
                fix="go on with the versions of crossbreed and its libraries that began the run (`clock` of the "
                "journal's first line), or start a new run folder",
            )

    def _start(self) -> Point | None:
        """The best merge of the firsts that the space can express; a lone model only where no merge was measured.

        A lone expert is a corner of the box: whole at one skill, nothing at the others, and worse in every direction.
        """
        measured = {o.number: o.values for o in self._first_outcomes.values() if o.values is not None}
        merges = {number: values for number, values in measured.items() if not is_lone(self._firsts[number][0])}
        outcomes = merges or measured
        columns = list(zip(*outcomes.values(), strict=True))
        spans = [(min(column), max(column) - min(column) or 1.0) for column in columns]  # objectives differ in unit
        ranked = sorted(
            outcomes,
            key=lambda n: (sum((v - low) / span for v, (low, span) in zip(outcomes[n], spans, strict=True)), n),
            reverse=True,
        )
        points = (self._space.encode(self._firsts[number][1]) for number in ranked)
        return next((point for point in points if point is not None), None)
