"""Search spaces: a box whose points are recipes, or genomes that can be crossed. They know nothing of scores.

A box (`coefficients`) is built from a base's structure (names, shapes, which tensors each expert changes), never from
weights. `decode` makes a recipe of a point; `encode` finds the point nearest to a recipe, so that a baseline can start
the search; where coordinates are weights of deltas it says which (`hulls`). Genomes are crossed and perturbed: of
recipes in `lineage`, which has to know the deltas' inner products, of plain arrays in `vector`. A new space is a file
with its config and its class, and a subclass of a conformance suite in `crossbreed.testing.spaces`.
"""

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field

from crossbreed.search_spaces.coefficients import CoefficientsConfig, CoefficientSpace, build_space
from crossbreed.search_spaces.groups import Group, GroupsConfig
from crossbreed.search_spaces.lineage import LineageConfig, LineageSpace
from crossbreed.search_spaces.protocol import Genome, GenomeSpace, SearchSpace
from crossbreed.search_spaces.vector import VectorSpace

SpaceConfig: TypeAlias = Annotated[
    CoefficientsConfig | LineageConfig,
    Field(discriminator="kind"),
    BeforeValidator(lambda said: {"kind": "coefficients", **said} if isinstance(said, dict) else said),
]
"""The `space` section of a spec; one of coefficients unless it says otherwise."""

__all__ = [
    "CoefficientSpace",
    "CoefficientsConfig",
    "Genome",
    "GenomeSpace",
    "Group",
    "GroupsConfig",
    "LineageConfig",
    "LineageSpace",
    "SearchSpace",
    "SpaceConfig",
    "VectorSpace",
    "build_space",
]
