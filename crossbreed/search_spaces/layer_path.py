"""Paths of layers (data-flow space): which layers hidden states pass, in which order, of which sources.

Weights stay as they are; the layers of all sources are what is combined (arXiv 2403.13187, section 3.2.2). Around the
best recipe so far, "the base's layers" are those of that merge: first weights, then paths. docs/layer_paths.md derives
how scales between layers are folded into the weights of a stock model.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from crossbreed.errors import InputError
from crossbreed.parsing import any_of, suggestion
from crossbreed.recipes.layers import SCALES
from crossbreed.search_spaces.boxes import BoxSpace
from crossbreed.search_spaces.build import SpacePart
from crossbreed.search_spaces.coefficients_config import Range
from crossbreed.search_spaces.layer_pool import LayerPool, make_pool
from crossbreed.search_spaces.layer_positions import Positions
from crossbreed.search_spaces.layer_slots import Scales, Slots
from crossbreed.search_spaces.settings import SpaceConfig, SpaceInputs
from crossbreed.sources.structure import Structure
from crossbreed.types import BASE, Box, LayerStep, Point, Recipe

_DEFAULT_SCALES = (0.7, 1.4)


def _scales(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = SCALES
    if not low <= bounds[0] < 1 < bounds[1] <= high:
        raise ValueError(f"expected {low:g} <= low < 1 < high <= {high:g}, got [{bounds[0]:g}, {bounds[1]:g}]")
    return bounds


class LayerPathConfig(SpaceConfig):
    """Paths through the layers of base and experts, of any depth: the data-flow space (docs/layer_paths.md)."""

    kind: Literal["layer_path"] = "layer_path"
    encoding: Literal["indicator", "position"] = "indicator"
    """`indicator`: the paper's row of all layers, of which those with an indicator above 0 are taken. `position`: for
    each layer of the base the source whose layer stands there, and whether it is skipped, taken once or twice."""
    repetitions: Annotated[int, Field(ge=1, le=16)] | None = None
    """With `indicator`: how often all layers stand in the row. Default: 2; the paper has 3."""
    max_depth: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Most layers of a path, and the depth of the engine's model. At least the base's. Default: half as many again."""
    experts: tuple[str, ...] | None = None
    """The experts whose layers may be taken. Default: all."""
    keep_ends: bool = True
    """Whether every path begins with the base's first layer and ends with its last, as in the paper."""
    scales: Scales = "slot"
    """What has a scale of its own on the hidden state that comes in: each slot of the row (by `position`: each layer of
    the base); each `hop` from a layer to another, as in the paper (as many as pairs of layers); or nothing."""
    scale: Annotated[Range, AfterValidator(_scales)] | None = None
    """Range of scales; the search starts at 1. Default: [0.7, 1.4]."""
    around: Literal["best", "base"] = "best"
    """What paths call the base: the best merge before this search (weights first, then paths), or the base itself."""

    @property
    def operators(self) -> tuple[str, ...]:
        """None of its own: those of the recipe that it is around."""
        return ()

    @property
    def is_around(self) -> bool:
        """See SpaceConfig."""
        return self.around == "best"

    def depth(self, num_layers: int) -> int:
        """See SpaceConfig."""
        return self.max_depth or num_layers + (num_layers + 1) // 2

    @model_validator(mode="after")
    def _hops_are_between_slots(self) -> "LayerPathConfig":
        if self.encoding == "position":
            if self.scales == "hop":
                raise ValueError(
                    "`scales: hop` goes with `encoding: indicator`; with `position`, give `slot` or `none`"
                )
            if self.repetitions is not None:
                raise ValueError(
                    "`repetitions` goes with `encoding: indicator`; with `position`, a layer is taken twice at most"
                )
        if self.scale is not None and self.scales == "none":
            raise ValueError("`scale` is the range of scales, and `scales: none` has none: remove one of them")
        return self


class LayerPathSpace(BoxSpace):
    """A box of indicators or choices, and scales; each point is a path."""

    def __init__(self, config: LayerPathConfig, inputs: SpaceInputs) -> None:
        """Lays out the coordinates.

        Raises:
            InputError: there is no such expert, the base has too few layers, or more than a path may have.
        """
        structure = inputs.structure
        own = Recipe(
            base=BASE, sources=dict(structure.hashes), rules=(), dtype=inputs.dtype, artifacts=dict(inputs.artifacts)
        )
        self._origin = replace(inputs.around or own, layers=())
        self._pool = _pool(config, structure)
        self._hashes: Mapping[str, str] = structure.hashes
        self._coding: Slots | Positions
        bounds = config.scale or _DEFAULT_SCALES
        if config.encoding == "indicator":
            self._coding = Slots(self._pool, repetitions=config.repetitions or 2, scales=config.scales, bounds=bounds)
        else:
            self._coding = Positions(self._pool, has_scales=config.scales != "none", bounds=bounds)

    @property
    def domain(self) -> Box:
        """The box."""
        found = self._coding.coordinates
        return Box(
            low=tuple(coordinate.low for coordinate in found),
            high=tuple(coordinate.high for coordinate in found),
            why_no_weight_blocks="paths of layers are searched, not the weights of experts",
            coordinates=tuple(coordinate.about for coordinate in found),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the coordinates, for example `pass 1, french 3: in`."""
        return tuple(coordinate.name for coordinate in self._coding.coordinates)

    @property
    def examples(self) -> tuple[Recipe, ...]:
        """A path of as many layers as there may be, all scaled."""
        return (self.decode(self.domain.high),)

    def describe(self) -> str:
        """Returns the number of coordinates and the most layers."""
        sources = ", ".join(dict.fromkeys(source for source, _ in self._pool.layers))
        return f"{super().describe()}: paths of up to {self._pool.max_depth} layers of {sources}"

    def decode(self, point: Point) -> Recipe:
        """Returns the recipe of a path; of the base's own layers in order, unscaled, the recipe that it is around."""
        steps = tuple(self._coding.path(point))
        return self._origin if steps == self._identity else replace(self._origin, layers=steps)

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the point of a recipe's path, whatever merge it is of; None if the space does not have the path."""
        if dict(recipe.sources) != dict(self._hashes) or recipe.base != BASE:
            return None
        found = self._coding.point(recipe.layers or self._identity)
        return None if found is None else tuple(found)

    @property
    def _identity(self) -> tuple[LayerStep, ...]:
        return tuple((source, number, 1.0) for source, number in self._pool.identity)


def _pool(config: LayerPathConfig, structure: Structure) -> LayerPool:
    experts, num_layers = tuple(structure.experts), structure.num_layers
    for name in config.experts or ():
        if name not in experts:
            raise InputError(
                f"`experts` names the unknown expert `{name}`",
                expected=any_of(experts),
                got=name,
                where="space.experts",
                fix=suggestion(name, experts),
            )
    if num_layers < 3:
        raise InputError(
            "the base has too few layers for paths through them",
            expected="a base of three layers or more",
            got=str(num_layers),
            where="space.kind",
        )
    max_depth = config.depth(num_layers)
    if max_depth < num_layers:
        raise InputError(
            "the base has more layers than a path may have, and is a candidate itself",
            expected=f"`max_depth` of {num_layers} or more",
            got=str(max_depth),
            where="space.max_depth",
            fix=f"max_depth: {num_layers}",
        )
    chosen = experts if config.experts is None else config.experts
    return make_pool(structure, chosen, max_depth=max_depth, keep_ends=config.keep_ends)


PART = SpacePart(config=LayerPathConfig, make=LayerPathSpace, paper="arXiv 2403.13187")
