"""The interface of search spaces: a domain to search, and the recipes of proposals from it.

A space depends on structure, not on scores. Only its `domain`, which is read by optimizers alone, and its decoder
distinguish points of a box from births of genomes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from crossbreed.errors import InputError
from crossbreed.search_spaces.groups import Group
from crossbreed.types import Box, Domain, Point, Proposal, Recipe

Genome: TypeAlias = NDArray[np.float64]
"""The array that is crossed and perturbed, of a shape chosen by the space. Never modified in place."""


class Decoder(Protocol):
    """Turns the proposals of one run into recipes, and keeps the genomes to which later proposals refer.

    Its state is a function of its calls alone, so that replaying a run's proposals gives the same recipes.
    """

    def create(self, number: int, proposal: Proposal) -> Recipe | None:
        """Returns the recipe of candidate `number`; None if the genome itself is evaluated."""
        ...

    def genome(self, number: int) -> Genome:
        """Returns the genome of a candidate that has no recipe."""
        ...

    def retain(self, numbers: Collection[int]) -> None:
        """Frees the state of all candidates but these: no later call refers to the others."""
        ...


class SearchSpace(Protocol):
    """Proposals and their recipes, over the sources of one run."""

    @property
    def domain(self) -> Domain:
        """The domain that the optimizer searches."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """A readable name for each coordinate of a box, such as `layers 0-9 / mlp / french: weight`; else empty."""
        ...

    @property
    def examples(self) -> tuple[Recipe, ...]:
        """Representative recipes: if one of them cannot be merged, the run ends before it starts."""
        ...

    def describe(self) -> str:
        """Returns a short description of the domain: `18 coordinates`."""
        ...

    def decoder(self, *, seed: int) -> Decoder:
        """Returns a new decoder for a run with this seed."""
        ...

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the nearest point of the box; None if the space has no points, or none for this recipe."""
        ...


@runtime_checkable
class TakesSlopes(Protocol):
    """A space that converts slopes along experts' deltas to slopes along its coordinates."""

    def slopes(self, found: Mapping[str, Mapping[str, float]]) -> tuple[float, ...]:
        """Returns one slope for each coordinate.

        Args:
            found: Tensor -> expert -> slope of the loss along the expert's delta, in that tensor alone.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Coordinates that multiply parts of one expert's delta of one tensor."""

    tensor: str
    expert: str
    coordinates: tuple[int, ...]
    """The coordinates of the delta's first rank components, in their order; or, if `is_whole`, the one of the delta."""
    is_whole: bool


@runtime_checkable
class HasTerms(Protocol):
    """A space whose merges are sums: of one recipe, and of parts of experts' deltas times coordinates."""

    @property
    def origin(self) -> Recipe:
        """The recipe to which the terms are added: the merge where all coordinates are 0, be it in the box or not."""
        ...

    @property
    def terms(self) -> tuple[Term, ...]:
        """All that coordinates multiply; empty if the settings of this space make merges that are no such sums."""
        ...


@runtime_checkable
class HasGroups(Protocol):
    """A space whose coordinates are of groups of tensors."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups, in the order of a recipe's rules."""
        ...


@runtime_checkable
class HasDistance(Protocol):
    """A space that can say how far a merge is from what it can express."""

    def distance(self, recipe: Recipe) -> float | None:
        """Returns the largest difference of a weight to the nearest point's recipe; None if there is none."""
        ...


def require_terms(space: SearchSpace) -> HasTerms:
    """Returns the space, if its merges are sums whose terms are multiplied by coordinates.

    Raises:
        InputError: they are others, so that they have no exact slopes here.
    """
    if isinstance(space, HasTerms) and space.terms:
        return space
    raise InputError(
        "the merges of this space are no sums of the experts' deltas, times coordinates",
        expected="`space: {kind: components}`, or `kind: coefficients` with `operator: task_arithmetic` and nothing "
        "searched but weights",
        got=space.describe(),
        where="space",
        fix="use one of those, or an optimizer that needs no gradient, such as `cma_es`",
    )


def require_slopes(space: SearchSpace) -> TakesSlopes:
    """Returns the space, if it provides slopes along its coordinates.

    Raises:
        InputError: some coordinates are not weights of experts.
    """
    domain = space.domain
    if isinstance(space, TakesSlopes) and isinstance(domain, Box) and domain.weight_blocks is not None:
        return space
    why = domain.why_no_weight_blocks if isinstance(domain, Box) else None
    raise InputError(
        "this space does not provide slopes",
        expected="a box whose every coordinate is the weight of an expert's delta",
        got=why or space.describe(),
        where="space",
        fix="use an optimizer that needs no gradient, or search only weights",
    )
