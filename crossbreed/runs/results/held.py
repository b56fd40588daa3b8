"""Whether constraints hold on the report items, which no search has used, or how little these tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from crossbreed.runs.results.statistics import Interval, interval
from crossbreed.runs.spec.constraints import Constraint
from crossbreed.runs.spec.objectives import Scores

Answer: TypeAlias = Literal["holds", "does not hold", "cannot be told"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A constraint and a model on the report items."""

    name: str
    """The constraint in words."""
    value: Interval
    """What it bounds."""
    bound: float | None
    """The bound as a number; None: the base was not measured on these items."""
    inside: Interval | None
    """How far inside the bound the model is, paired with the base where that is in it; negative: outside."""

    @property
    def answer(self) -> Answer:
        """By the interval: an end on the wrong side, and it cannot be told."""
        if self.inside is None or not self.inside.is_known:
            return "cannot be told"
        return "holds" if self.inside.low >= 0 else "does not hold" if self.inside.high < 0 else "cannot be told"

    @property
    def is_kept(self) -> bool:
        """Whether the model is inside the bound, as far as its mean on these items goes."""
        return self.inside is None or self.inside.mean >= 0

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        return {
            "name": self.name,
            "value": self.value.to_json(),
            "bound": self.bound,
            "inside": self.inside and self.inside.to_json(),
            "answer": self.answer,
        }


def held_by(scores: Scores, base: Scores | None, constraints: Sequence[Constraint], *, seed: int) -> tuple[Held, ...]:
    """Returns what the items say of each constraint for one model.

    Args:
        scores: The model's.
        base: The base's on the same items; None: it was not measured, or nothing is relative to it.
        constraints: The run's.
        seed: The Spec's, from which the bootstrap's draws are spawned.
    """
    return tuple(_held(scores, base, constraint, seed) for constraint in constraints)


def _held(scores: Scores, base: Scores | None, constraint: Constraint, seed: int) -> Held:
    is_known = base is not None or not constraint.needs_base
    return Held(
        name=constraint.name,
        value=interval(scores, constraint.measure, seed=seed),
        bound=constraint.limit(base) if is_known else None,
        inside=interval(scores, constraint, base=base, seed=seed) if is_known else None,
    )
