"""What optimizers search: boxes of numbers, integers and alternatives, or genomes. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Point: TypeAlias = tuple[float, ...]
"""Coordinates inside a search space's box, in its order."""
WeightBlock: TypeAlias = Mapping[str, int]
"""Coordinates that weight the experts' deltas in the same tensors: expert -> coordinate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The values of a coordinate that is no number: as many equal intervals of its range, each of which is one of them.

    An optimizer that knows only numbers moves through the range as through any other.

    >>> Levels(count=3).at(0.4), Levels(count=3).middle(1)
    (1, 0.5)
    """

    count: int
    is_ordered: bool = False
    """Whether neighbours are alike, as integers are; else they are alternatives."""

    def at(self, share: float) -> int:
        """Returns the level, from 0, at this share of the range."""
        return min(max(int(share * self.count), 0), self.count - 1)

    def middle(self, level: int) -> float:
        """Returns the share of the range at the middle of a level's interval."""
        return (level + 0.5) / self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinate:
    """What a coordinate of a box is."""

    param: str
    """What is stepped along, such as `weight` or `ln density`."""
    owner: str | None = None
    """The expert (or the base) whose it is; None: of a whole group, or of all."""
    levels: Levels | None = None
    """Its values, if they are integers or alternatives; None: it is a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The domain of a search by points."""

    low: Point
    high: Point
    weight_blocks: tuple[WeightBlock, ...] | None = None
    """Blocks that contain every coordinate once; None if some coordinate is not the weight of a delta.
    Moving such a coordinate adds that multiple of the expert's delta, or of the elements that the operator keeps: a
    slope along the delta is (nearly) the derivative. An expert may be in several blocks."""
    why_no_weight_blocks: str | None = None
    """The reason, for messages; None if there are weight blocks."""
    choices: int = 1
    """Number of alternatives of the first coordinate, as of `Levels`, if each has coordinates that no other reads: they
    are asked before a search begins. 1: there are none, whatever its levels."""
    coordinates: tuple[Coordinate, ...] = ()
    """What each coordinate is; empty: not known."""

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.low)

    @property
    def levels(self) -> Mapping[int, Levels]:
        """The coordinates that are no numbers, by their index, `choices` included."""
        chosen = {0: Levels(count=self.choices)} if self.choices > 1 else {}
        return chosen | {index: one.levels for index, one in enumerate(self.coordinates) if one.levels is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Genomes:
    """The domain of a search by births."""

    num_seeds: int
    num_chromosomes: int
    """Parts of a genome that are split and mixed separately."""


Domain: TypeAlias = Box | Genomes
"""The domain of a search space, for optimizers."""
DomainType: TypeAlias = type[Box] | type[Genomes]
"""The kind of domain that an optimizer searches."""
