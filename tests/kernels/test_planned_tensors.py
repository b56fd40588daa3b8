"""What each tensor of a recipe with layers is made of: the plan, kept bit by bit; and what may be kept between two."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch

from crossbreed.kernels import Fingerprinted, materialize, materialize_many, unchanged
from crossbreed.recipes.layers import output_factors
from crossbreed.recipes.named import weighted_deltas
from crossbreed.sources import Sources, open_sources
from crossbreed.sources.depth import filling
from crossbreed.sources.naming import in_layer, layer_of
from crossbreed.types import BASE, LayerStep, Recipe, Rule

PATH: tuple[LayerStep, ...] = (
    (BASE, 0, 1.0),
    ("everything", 2, 0.5),
    ("plain", 2, 1.0),
    (BASE, 1, 3.0),
    (BASE, 3, 1.0),
)


@pytest.fixture(scope="module")
def sources(toy_base: Path, toy_experts: dict[str, Path], toy_adapters: dict[str, Path]) -> Sources:
    experts = {**toy_experts, **toy_adapters}
    return open_sources(str(toy_base), {name: str(path) for name, path in experts.items()})


def merged(sources: Sources, weight: float = 0.4) -> Recipe:
    """A merge by two rules, without layers of its own."""
    weights = dict.fromkeys(sources.experts, weight)
    rules = (
        Rule(match=".*mlp.*", operator="ties", params={"weight": weights, "density": 0.5}),
        Rule(match=".*", operator="task_arithmetic", params={"weight": weights}),
    )
    return Recipe(base=BASE, sources=sources.structure.hashes, rules=rules)


def test_each_layer_is_what_its_source_has_there(sources: Sources) -> None:
    """The base's as the rules merge it, an expert's as it is alone: bit by bit, scales aside."""
    recipe = replace(merged(sources), layers=PATH)
    made, origin = dict(materialize(recipe, sources)), dict(materialize(merged(sources), sources))
    hashes = sources.structure.hashes
    alone = {
        name: dict(materialize(weighted_deltas({name: 1.0}, hashes=hashes, dtype="bfloat16"), sources))
        for name in sources.experts
    }
    assert {layer_of(name) for name in made} == {None, *range(len(PATH))}
    assert [*made] == sorted(made)
    factors = [*output_factors(PATH)]
    assert factors == pytest.approx([1, 2, 2, 2 / 3, 2 / 3])
    for name, tensor in made.items():
        place = layer_of(name)
        if place is None:
            assert torch.equal(tensor, origin[name])
            continue
        source, number, _ = PATH[place]
        own = (origin if source == BASE else alone[source])[in_layer(name, number)]
        if "o_proj" in name or "down_proj" in name:
            assert torch.allclose(tensor.float(), own.float() * factors[place], rtol=2**-7, atol=0)
        else:
            assert torch.equal(tensor, own), name
    exact = {**alone["everything"]}["model.layers.2.mlp.down_proj.weight"]
    assert torch.equal(made["model.layers.1.mlp.down_proj.weight"], exact * 2), "a power of two rounds nothing"


def test_the_base_s_own_layers_are_the_recipe_without(sources: Sources) -> None:
    own = tuple((BASE, number, 1.0) for number in range(sources.structure.num_layers))
    one, other = (
        Fingerprinted(materialize(recipe, sources))
        for recipe in (merged(sources), replace(merged(sources), layers=own))
    )
    assert [name for name, _ in one] == [name for name, _ in other]
    assert one.value == other.value


def test_several_of_one_path_are_made_in_one_pass(sources: Sources) -> None:
    recipes = [replace(merged(sources, weight), layers=PATH) for weight in (0.3, 0.4)]
    together = list(materialize_many(recipes, sources))
    for index, recipe in enumerate(recipes):
        alone = dict(materialize(recipe, sources))
        assert [name for name, _ in together] == list(alone)
        assert all(torch.equal(found[index], alone[name]) for name, found in together)


def variants(sources: Sources) -> Iterator[Recipe]:
    """Recipes that have much in common."""
    plain = weighted_deltas({}, hashes=sources.structure.hashes, dtype="bfloat16")
    paths = [(), PATH, PATH[1:], (*PATH[:2], *PATH[3:]), ((BASE, 0, 2.0), *PATH[1:]), PATH[:1] + PATH[-1:]]
    for recipe, path in product((plain, merged(sources), merged(sources, 0.2)), paths):
        yield replace(recipe, layers=path)


def test_what_is_kept_in_a_model_of_some_depth_is_the_same(sources: Sources) -> None:
    """Of any two recipes in turn, whatever their depths: no name is kept whose tensor differs."""
    kept = 0
    recipes = [*variants(sources)]
    filled = [dict(filling(recipe, sources, 6).filled(materialize(recipe, sources))) for recipe in recipes]
    for (before, after), (old, new) in zip(pairwise(recipes), pairwise(filled), strict=True):
        assert old.keys() == new.keys(), "a model of six layers"
        fillings = [filling(recipe, sources, 6) for recipe in (before, after)]
        shift = fillings[1].num_idle - fillings[0].num_idle
        for name in map(fillings[1].engine_name, unchanged(before, after, sources, shift=shift)):
            assert torch.equal(old[name], new[name]), name
            kept += 1
    assert kept > 100
