"""A space of one coordinate: a quick look at whether merging these experts helps at all."""

from collections.abc import Mapping
from typing import Annotated, Literal

from crossbreed.recipes.operators import OPERATORS
from crossbreed.registry import Named
from crossbreed.search_spaces import BoxSpace, SpaceConfig, SpaceInputs, SpacePart
from crossbreed.types import BASE, Box, Point, Recipe, Rule


class OneWeightConfig(SpaceConfig):
    """One weight for the deltas of all experts, in the whole model."""

    kind: Literal["one_weight"] = "one_weight"
    operator: Annotated[str, Named(OPERATORS)] = "task_arithmetic"
    """What merges: an operator that needs nothing but weights."""
    weight: tuple[float, float] = (0.0, 2.0)
    """Range of the weight."""

    @property
    def operators(self) -> tuple[str, ...]:
        """The one that merges."""
        return (self.operator,)


class OneWeight(BoxSpace):
    """Every point is a recipe with one rule."""

    def __init__(self, config: OneWeightConfig, inputs: SpaceInputs) -> None:
        self._config, self._inputs = config, inputs

    @property
    def domain(self) -> Box:
        """The range of the weight."""
        (low, high), why = self._config.weight, "one coordinate is the weight of all experts"
        return Box(low=(low,), high=(high,), why_no_weight_blocks=why)

    @property
    def names(self) -> tuple[str, ...]:
        """The one coordinate."""
        return ("weight of all experts",)

    def decode(self, point: Point) -> Recipe:
        """Returns the recipe of a weight."""
        rule = Rule(match=".*", operator=self._config.operator, params={"weight": point[0]})
        return Recipe(base=BASE, sources=self._inputs.structure.hashes, rules=(rule,), dtype=self._inputs.dtype)

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the weight of a recipe such as `decode` makes, the baseline `uniform` among them; else None."""
        if recipe.sources != self._inputs.structure.hashes or len(recipe.rules) != 1:
            return None
        (rule,), weight = recipe.rules, recipe.rules[0].params.get("weight")
        if (rule.match, rule.operator, [*rule.params]) != (".*", self._config.operator, ["weight"]):
            return None
        experts = self._inputs.structure.experts
        weights = {weight.get(expert, 0.0) for expert in experts} if isinstance(weight, Mapping) else {weight}
        low, high = self._config.weight
        return (min(max(float(min(weights)), low), high),) if len(weights) == 1 else None


PART = SpacePart(config=OneWeightConfig, make=OneWeight)
