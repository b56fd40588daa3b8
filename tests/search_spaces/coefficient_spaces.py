"""Coefficient spaces and recipes that tests build in a line."""

from typing import Any

from crossbreed.recipes.operators import OPERATOR_SPECS, ParamKind, ParamSpec
from crossbreed.search_spaces import CoefficientsConfig, CoefficientSpace, SpaceInputs
from crossbreed.search_spaces.layout import Layout
from crossbreed.sources.structure import Structure
from crossbreed.testing.spaces import make_structure
from crossbreed.types import Recipe, Rule

EXPERTS = ("french", "sums", "norms")
STRUCTURE = make_structure(experts=EXPERTS)
BANDS = {"layers": 3, "modules": ["attention", "mlp"]}
SEARCHED = tuple(name for name in OPERATOR_SPECS if name != "rank_components")
"""The operators that have something to search here: components have a space of their own."""
THIRD = {"french": 1 / 3, "sums": 1 / 3, "norms": 1 / 3}


def make_space(**config: Any) -> CoefficientSpace:
    return CoefficientSpace(CoefficientsConfig.model_validate(config), inputs_of(STRUCTURE))


def inputs_of(structure: Structure) -> SpaceInputs:
    return SpaceInputs(structure=structure, dtype="bfloat16")


def space_of(operator: str, params: dict[str, Any], **config: Any) -> CoefficientSpace:
    """A space over as many experts as the operator takes, with what only a spec can say of it."""
    spec = OPERATOR_SPECS[operator]
    missing = Layout.of(operator, params).missing
    told = {name: made_up(param) for name in missing if (param := spec.param(name)) is not None}
    parsed = CoefficientsConfig.model_validate({"operator": operator, "params": told | params, **config})
    return CoefficientSpace(parsed, inputs_of(make_structure(num_layers=2, experts=EXPERTS[: spec.num_experts[1]])))


def made_up(param: ParamSpec) -> str | dict[str, float]:
    return "french" if param.kind is ParamKind.NAME else {"french": 0.25, "sums": 0.75}


def one_rule(operator: str, **params: Any) -> Recipe:
    rule = Rule(match=".*", operator=operator, params=params)
    return Recipe(base="base", sources=STRUCTURE.hashes, rules=(rule,), dtype="bfloat16")


def decoded(space: CoefficientSpace, recipe: Recipe) -> Recipe:
    point = space.encode(recipe)
    assert point is not None
    return space.decode(point)
