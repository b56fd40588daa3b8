"""The inputs of every space: its section of the spec, and the structure of the sources."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossbreed.config import Config
from crossbreed.search_spaces.axes import ParamSetting
from crossbreed.sources.structure import Structure
from crossbreed.types import Recipe

InnerProducts: TypeAlias = Callable[[Sequence[str]], NDArray[np.float64]]
"""Names of tensors -> [V, V]: inner products of base and deltas, in the spec's order, summed over the tensors."""


class SpaceConfig(Config):
    """Base of the settings of every space."""

    kind: str
    """The name of the space in a spec."""

    @property
    @abstractmethod
    def operators(self) -> tuple[str, ...]:
        """The operators that its recipes may use."""

    @property
    def operator_params(self) -> Mapping[str, ParamSetting]:
        """Parameters of those operators that the spec fixes or searches."""
        return MappingProxyType({})

    def depth(self, num_layers: int) -> int | None:
        """Returns the most layers of its recipes, where they may be others than the base's; None: they never are.

        Args:
            num_layers: The base's.
        """
        return None

    @property
    def is_around(self) -> bool:
        """Whether its points are changes of a recipe, `SpaceInputs.around`: it is built again once that is known.

        Its coordinates (number, names, bounds) do not depend on the recipe: a journal names them before it is known.
        """
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionSettings:
    """The settings of the regression that a run makes before it searches."""

    ridge: float
    anchor_scale: float
    own: float
    modules: tuple[str, ...]
    """Patterns, found anywhere in a tensor's name, of the matrices that it solves; empty: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceInputs:
    """Everything known about the sources when a space is built: no weights, so that a service can provide all of it."""

    structure: Structure
    """The base's tensors, and which of them each expert changes."""
    dtype: str
    """Dtype of the merged tensors."""
    inner_products: InnerProducts | None = None
    """Computes inner products of the sources; not called before the space is built. None if no weights can be read."""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """The artifacts that the run prepared for its recipes: name -> content hash."""
    regression: RegressionSettings | None = None
    """Those of the run's regression; None: it makes none."""
    around: Recipe | None = None
    """The recipe that a space is around, if it `is_around` one; None: the space's own default."""
