"""The search-space protocols: a box whose every point decodes to a valid recipe, or genomes that can be crossed.

A space knows structure, not scores.
"""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossbreed.types import Point, Recipe

Genome: TypeAlias = NDArray[np.float64]
"""What is crossed and perturbed; its shape is the space's own. Never written to."""


class SearchSpace(Protocol):
    """Point <-> Recipe. `decode(encode(r)) == r` for recipes in the space's range."""

    @property
    def low(self) -> Point:
        """Lower corner of the box."""
        ...

    @property
    def high(self) -> Point:
        """Upper corner of the box."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """One readable name a coordinate, for example `layers 0-9 / mlp / french: weight`."""
        ...

    @property
    def hulls(self) -> tuple[Mapping[str, int], ...] | None:
        """Block by block, expert -> coordinate, if every coordinate is the weight of an expert's delta; else None.

        Then what is merged changes by the delta as its coordinate does, or, where the operator thins deltas out, by
        what it keeps of it: a slope along the delta is the derivative, or stands for it.
        """
        ...

    @property
    def why_no_hulls(self) -> str | None:
        """In words for a person; None where there are hulls."""
        ...

    def slopes(self, found: Mapping[str, Mapping[str, float]]) -> tuple[float, ...]:
        """Returns one slope for each coordinate of a space with hulls.

        Args:
            found: Tensor -> expert -> slope of that tensor alone.
        """
        ...

    def decode(self, point: Point) -> Recipe:
        """Returns the recipe of a point; every point of the box has one."""
        ...

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the nearest point of the box to `recipe`, or None where the space cannot express it."""
        ...


class GenomeSpace(Protocol):
    """A small algebra of genomes, from which births are carried out. Pure: equal arguments give equal genomes."""

    @property
    def num_seeds(self) -> int:
        """Genomes to begin with."""
        ...

    @property
    def chromosomes(self) -> tuple[str, ...]:
        """One readable name for each part of a genome that is split and mixed for itself."""
        ...

    def seed(self, index: int, scale: float) -> Genome:
        """Returns a genome to begin with; `scale` is how much of it, where there is a base to measure from."""
        ...

    def cross(self, a: Genome, b: Genome, splits: tuple[float, ...], weights: tuple[float, ...]) -> Genome:
        """Returns the child: SLERP from `a` to `b` at w before each chromosome's split, at 1 - w after it."""
        ...

    def perturb(self, genome: Genome, std: float, rng: np.random.Generator) -> Genome:
        """Returns the genome with normal noise."""
        ...

    def decode(self, genome: Genome) -> Recipe | None:
        """Returns what is merged; None where the genome itself is what is evaluated."""
        ...
