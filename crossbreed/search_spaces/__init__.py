"""Search spaces: a box whose points are recipes.

A space is built from a base's structure (names, shapes, which tensors each expert changes), never from weights, and
knows nothing of scores. `decode` makes a recipe of a point; `encode` finds the point nearest to a recipe, so that a
baseline can start the search. A new one is a file with its config and its class, and a subclass of
`crossbreed.testing.spaces.SpaceConformance`.
"""

from crossbreed.search_spaces.coefficients import CoefficientsConfig, CoefficientSpace, build_space
from crossbreed.search_spaces.groups import Group, GroupsConfig
from crossbreed.search_spaces.protocol import Genome, GenomeSpace, SearchSpace
from crossbreed.search_spaces.vector import VectorSpace

__all__ = [
    "CoefficientSpace",
    "CoefficientsConfig",
    "Genome",
    "GenomeSpace",
    "Group",
    "GroupsConfig",
    "SearchSpace",
    "VectorSpace",
    "build_space",
]
