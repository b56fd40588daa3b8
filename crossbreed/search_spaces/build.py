"""The registry of spaces, and building the one that a spec names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

from crossbreed.registry import Registry, Tagged
from crossbreed.search_spaces.protocol import SearchSpace
from crossbreed.search_spaces.settings import SpaceConfig, SpaceInputs

C = TypeVar("C", bound=SpaceConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpacePart(Generic[C]):
    """The registration of a space."""

    config: type[C]
    """Its settings."""
    make: Callable[[C, SpaceInputs], SearchSpace]
    """Builds it; raises InputError if the settings do not fit the sources, or there is nothing to search."""
    paper: str = ""
    """The paper that describes it, for display."""


SPACES = Registry[SpacePart[Any]](
    "space",
    "crossbreed.spaces",
    {
        "coefficients": "crossbreed.search_spaces.coefficients:PART",
        "components": "crossbreed.search_spaces.components:PART",
        "layer_path": "crossbreed.search_spaces.layer_path:PART",
        "lineage": "crossbreed.search_spaces.lineage:PART",
        "mergekit_evolve": "crossbreed.search_spaces.mergekit_evolve:PART",
        "regression_settings": "crossbreed.search_spaces.regression_settings:PART",
        "scales": "crossbreed.search_spaces.scales:PART",
    },
    part=SpacePart,
    config=SpaceConfig,
)
"""Kind -> part."""

OF_SPACE = Tagged(SPACES, lambda part: part.config, default="coefficients")
"""Annotates a field that takes the settings of any registered space."""
AnySpaceConfig: TypeAlias = Annotated[SpaceConfig, OF_SPACE]
"""A field that takes the settings of any registered space; `kind` defaults to `coefficients`."""


def build_space(config: SpaceConfig, inputs: SpaceInputs) -> SearchSpace:
    """Builds the space that `config` describes.

    Raises:
        InputError: the settings do not fit the sources, or there is nothing to search.
    """
    return SPACES.look_up(config.kind, where="space.kind").make(config, inputs)
