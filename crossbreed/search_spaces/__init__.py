"""Search spaces: the domain of proposals, and their recipes. They are independent of scores.

Every space implements one protocol, `SearchSpace`: a domain for the optimizer, and a decoder that turns proposals into
recipes. `coefficients` is a box, searched by points; it is built from a base's structure (names, shapes, which tensors
each expert changes), never from weights. So is `components`, with thousands of coordinates around a recipe, and
`regression_settings`, with those of a regression that the run makes. `lineage`
has genomes, searched by births; it needs the inner products of the experts' weights. The genomes of `VectorSpace` are
plain arrays. A new space is a file with its settings, its class (derived from `BoxSpace` or `GenomeSpace`) and its
`PART`, a name in `build.py` or an entry point of another package (docs/plugins.md), and a subclass of a conformance
suite of `crossbreed.testing.spaces`.
"""

from crossbreed.search_spaces.boxes import BoxSpace
from crossbreed.search_spaces.build import OF_SPACE, SPACES, AnySpaceConfig, SpacePart, build_space
from crossbreed.search_spaces.coefficients import CoefficientSpace
from crossbreed.search_spaces.coefficients_config import CoefficientsConfig
from crossbreed.search_spaces.components import ComponentsConfig, ComponentSpace
from crossbreed.search_spaces.genomes import GenomeSpace
from crossbreed.search_spaces.groups import Group, GroupsConfig
from crossbreed.search_spaces.lineage import LineageConfig, LineageSpace
from crossbreed.search_spaces.protocol import (
    Decoder,
    Genome,
    HasDistance,
    HasGroups,
    HasTerms,
    SearchSpace,
    TakesSlopes,
    Term,
    require_slopes,
    require_terms,
)
from crossbreed.search_spaces.settings import InnerProducts, RegressionSettings, SpaceConfig, SpaceInputs
from crossbreed.search_spaces.vector import VectorSpace

__all__ = [
    "OF_SPACE",
    "SPACES",
    "AnySpaceConfig",
    "BoxSpace",
    "CoefficientSpace",
    "CoefficientsConfig",
    "ComponentSpace",
    "ComponentsConfig",
    "Decoder",
    "Genome",
    "GenomeSpace",
    "Group",
    "GroupsConfig",
    "HasDistance",
    "HasGroups",
    "HasTerms",
    "InnerProducts",
    "LineageConfig",
    "LineageSpace",
    "RegressionSettings",
    "SearchSpace",
    "SpaceConfig",
    "SpaceInputs",
    "SpacePart",
    "TakesSlopes",
    "Term",
    "VectorSpace",
    "build_space",
    "require_slopes",
    "require_terms",
]
