"""A space of another package, in one file: one factor for all experts, as the tuned scalars have it."""

from collections.abc import Mapping
from typing import Literal

from crossbreed.search_spaces import BoxSpace, SpaceConfig, SpaceInputs, SpacePart
from crossbreed.types import BASE, Box, Point, Recipe, Rule


class GlobalScalarConfig(SpaceConfig):
    """One factor for the mean of all deltas."""

    kind: Literal["global_scalar"] = "global_scalar"
    most: float = 3.0
    """The largest factor."""

    @property
    def operators(self) -> tuple[str, ...]:
        """A weighted sum of deltas."""
        return ("task_arithmetic",)


class GlobalScalarSpace(BoxSpace):
    """The base plus s times the mean of all deltas."""

    def __init__(self, config: GlobalScalarConfig, inputs: SpaceInputs) -> None:
        self._most, self._dtype, self._hashes = config.most, inputs.dtype, dict(inputs.structure.hashes)
        self._experts = tuple(inputs.structure.experts)

    @property
    def domain(self) -> Box:
        """The factor."""
        return Box(low=(0.0,), high=(self._most,), why_no_weight_blocks="one factor is searched for all experts")

    @property
    def names(self) -> tuple[str, ...]:
        """The factor's."""
        return ("scalar",)

    def decode(self, point: Point) -> Recipe:
        """Returns one rule, with the same weight for every expert."""
        weight = round(point[0] / len(self._experts), 6)
        rule = Rule(match=".*", operator="task_arithmetic", params={"weight": dict.fromkeys(self._experts, weight)})
        return Recipe(base=BASE, sources=self._hashes, rules=(rule,), dtype=self._dtype)

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the factor of a recipe that has one."""
        if dict(recipe.sources) != self._hashes or len(recipe.rules) != 1:
            return None
        [rule] = recipe.rules
        weights = rule.params.get("weight")
        if rule.match != ".*" or rule.operator != "task_arithmetic" or not isinstance(weights, Mapping):
            return None
        if set(weights) != set(self._experts) or len(set(weights.values())) != 1 or set(rule.params) != {"weight"}:
            return None
        return (min(max(len(weights) * next(iter(weights.values())), 0.0), self._most),)


PART = SpacePart(config=GlobalScalarConfig, make=GlobalScalarSpace)
