"""A space of factors around a recipe: 1 everywhere is the recipe itself, whatever operators it has."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crossbreed.kernels import materialize
from crossbreed.search_spaces import SearchSpace, SpaceInputs
from crossbreed.search_spaces.scales import ScalesConfig, ScaleSpace
from crossbreed.sources import open_sources
from crossbreed.testing.spaces import SpaceConformance, make_structure
from crossbreed.types import BASE, Recipe, Rule

STRUCTURE = make_structure()
EXPERTS = STRUCTURE.experts
GROUPS = {"layers": 2, "modules": ["mlp"]}


def recipe(*rules: Rule) -> Recipe:
    return Recipe(base=BASE, sources=STRUCTURE.hashes, rules=rules)


def rule(match: str = ".*", operator: str = "task_arithmetic", **params: Any) -> Rule:
    return Rule(match=match, operator=operator, params={"weight": dict.fromkeys(EXPERTS, 0.5), **params})


MIXED = recipe(
    rule(r".*layers\.(0|1)\..*", "ties", density=0.5),
    rule(r".*mlp.*", lines_alpha=0.8, lines_beta=0.25),
    rule(r".*norm.*", "tsv_m", lines_alpha=0.0, lines_beta=0.5),
)
"""Rules that lie across groups, and tensors that stay the base's."""


def space_around(around: Recipe | None, **settings: Any) -> ScaleSpace:
    config = ScalesConfig.model_validate({"groups": GROUPS, **settings})
    return ScaleSpace(config, SpaceInputs(structure=STRUCTURE, dtype="bfloat16", around=around))


class TestAroundTheUniformMerge(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return space_around(None)


class TestAroundOneRule(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return space_around(recipe(rule(scale=1.5, operator="tsv_m")))


@pytest.mark.parametrize("around", [MIXED, recipe(rule()), recipe(rule(lines_alpha=0.3))])
def test_one_everywhere_is_the_recipe_itself(around: Recipe) -> None:
    space = space_around(around)
    ones = (1.0,) * space.domain.dim
    assert space.decode(ones) == around
    assert space.encode(around) == ones


def test_factors_come_back_whatever_the_rules() -> None:
    space = space_around(MIXED)
    point = tuple(np.linspace(0.7, 1.3, space.domain.dim).round(6).tolist())
    found = space.encode(space.decode(point))
    assert found is not None
    assert space.decode(found) == space.decode(point)
    again = space_around(space.decode(point))
    assert again.encode(again.decode(point)) == pytest.approx(found), "a space around a point of a space"


def test_its_coordinates_do_not_depend_on_the_recipe() -> None:
    spaces = [space_around(around) for around in (None, MIXED, recipe())]
    assert len({space.names for space in spaces}) == 1
    assert len({space.domain for space in spaces}) == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(recipe(rule()), dtype="float32"),
        recipe(rule("model.layers.0.mlp.up_proj.weight", lines_alpha=1.1), rule()),
        recipe(rule(weight=0.4)),
        recipe(),
    ],
)
def test_what_is_no_scaled_recipe_has_no_point(other: Recipe) -> None:
    space = space_around(recipe(rule()))
    assert space.encode(other) is None


def test_a_factor_multiplies_what_any_operator_merges(toy_base: Any, toy_adapters: Any) -> None:
    """Of 1.3 and of 0.7 the mean is the recipe itself, in each tensor, to rounding."""
    sources = open_sources(str(toy_base), {name: str(path) for name, path in toy_adapters.items()})
    names = tuple(toy_adapters)
    weights = dict.fromkeys(names, 0.5)
    around = Recipe(
        base=BASE,
        sources=sources.structure.hashes,
        rules=(
            Rule(match=".*mlp.*", operator="ties", params={"weight": weights, "density": 0.5}),
            Rule(match=".*", operator="tsv_m", params={"weight": weights, "scale": 0.9, "lines_beta": 0.5}),
        ),
        dtype="float32",
    )
    config = ScalesConfig.model_validate({"groups": {"layers": 2}})
    space = ScaleSpace(config, SpaceInputs(structure=sources.structure, dtype="float32", around=around))
    more, less, same = (dict(materialize(space.decode((f,) * space.domain.dim), sources)) for f in (1.3, 0.7, 1.0))
    moved = [name for name in same if not np.array_equal(more[name].numpy(), less[name].numpy())]
    assert moved
    for name in same:
        assert np.allclose((more[name] + less[name]).numpy() / 2, same[name].numpy(), atol=1e-5), name
