"""The optimizer protocols: scores in, points or births out. An optimizer knows no models.

Asks and tells are driven by the journal: replaying the same sequence of calls on a new optimizer of the same settings
must bring it to the same state. So all randomness comes from the generator it was built with, none from the clock.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np

from crossbreed.errors import InputError
from crossbreed.types import Birth, Outcome, Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The search space as an optimizer sees it."""

    low: Point
    high: Point

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Genomes:
    """A space of genomes as an optimizer sees it."""

    num_seeds: int
    num_chromosomes: int
    """Parts of a genome that are split and mixed each for itself."""


Hull: TypeAlias = Mapping[str, int]
"""A block of coordinates, each the weight of a vertex: vertex -> coordinate. One vertex may be in several blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything that an optimizer is built from."""

    box: Box
    """Without coordinates where the space is one of genomes."""
    num_objectives: int
    start: Point | None
    """A good point to start from (the best baseline, encoded), if there is one."""
    rng: np.random.Generator
    """The optimizer's own stream, spawned by name from the Spec's seed."""
    hulls: tuple[Hull, ...] | None = None
    """Blocks of coordinates that are weights of vertices, and every coordinate is in one; None: the box is no such."""
    why_no_hulls: str | None = None
    """What keeps the box from it, in words for a person."""
    genomes: Genomes | None = None
    """None where the space is a box."""
    tuned_scalar: float | None = None
    """The factor s of the best global coefficient s/N on the search items; None where none was measured."""
    item_weights: tuple[float, ...] = ()
    """How much each of an outcome's items counts in the objectives; empty: all alike."""

    def vertex_scale(self, wanted: float | None) -> float:
        """Returns how much of a lone expert is a vertex, or a seed: what the options want, or what the baselines found.

        One global factor moves the experts' hull to where the best merges are; the papers' own is 1.
        """
        return wanted or self.tuned_scalar or 1.0


def check_one_objective(setting: Setting, kind: str) -> None:
    """Refuses several objectives, for an optimizer that compares candidates by one number.

    Raises:
        InputError: there are several.
    """
    if setting.num_objectives != 1:
        raise InputError(
            f"optimizer `{kind}` searches for one objective",
            expected="one entry under `fitness.objectives`",
            got=f"{setting.num_objectives} objectives",
            where="optimizer.kind",
            fix="use `kind: nsga2` for a Pareto front, or one objective such as `{mean: [TASKS]}`",
        )


class Optimizer(Protocol):
    """Ask, tell. Results may come late, in any order, or not OK: an optimizer never crashes on them."""

    in_order: ClassVar[bool]
    """Told in candidate order, and asks only on complete generations: the same trials with any number of workers."""

    def ask(self, number: int) -> Point | None:
        """Returns a point inside the box for candidate `number`, or None: nothing to ask until results come."""
        ...

    def tell(self, outcome: Outcome) -> None:
        """Takes the outcome of a candidate that was asked, once."""
        ...


@runtime_checkable
class Breeder(Protocol):
    """An optimizer in a space of genomes: asked for births instead of points."""

    in_order: ClassVar[bool]
    """See Optimizer."""

    def ask(self, number: int) -> Birth | None:
        """Returns how candidate `number` is born, or None: nothing to ask until results come."""
        ...

    def tell(self, outcome: Outcome) -> None:
        """See Optimizer."""
        ...

    @property
    def parents(self) -> Collection[int]:
        """Numbers of the candidates that may yet be crossed: the genomes of all others can be let go."""
        ...
