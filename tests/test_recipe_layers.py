"""Layers of a recipe: absent, nothing changes; present, they survive files, and what is no step is refused."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from crossbreed.errors import InputError
from crossbreed.recipes import dump_recipe, parse_recipe
from crossbreed.recipes.layers import layers_text, output_factors
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.spec.serve import RecipeLimits
from crossbreed.service.recipes import RecipeRules
from crossbreed.service.refusals import Refusal
from crossbreed.types import BASE, Recipe

HASHES = {BASE: "b" * 32, "sums": "a" * 32}
PLAIN = weighted_deltas({"sums": 0.5}, hashes=HASHES, dtype="bfloat16")
PATH = replace(PLAIN, layers=((BASE, 0, 1.0), ("sums", 1, 0.5), (BASE, 1, 1.0)))


def test_a_recipe_without_layers_is_what_it_was() -> None:
    assert "layers" not in PLAIN.to_json()
    assert parse_recipe(PLAIN.to_json() | {"layers": []}) == PLAIN


def test_layers_survive_a_file() -> None:
    assert parse_recipe(yaml.safe_load(dump_recipe(PATH))) == PATH
    assert parse_recipe(PATH.to_json()).id == PATH.id != PLAIN.id
    whole = replace(PATH, layers=((BASE, 0, 1),))
    assert whole.id == replace(PATH, layers=((BASE, 0, 1.0),)).id, "1 is 1.0"


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"base": 3}, "not a list of steps"),
        ("base", "not a list of steps"),
        ([["base", 0]], "has not three parts"),
        ([["base", 0, 1.0], "base"], r"layers\[1\]"),
        ([["sum", 0, 1.0]], "did you mean `sums`"),
        ([[None, 0, 1.0]], "no source of the recipe"),
        ([["base", -1, 1.0]], "not a number from 0 up"),
        ([["base", 1.0, 1.0]], "not a number from 0 up"),
        ([["base", True, 1.0]], "not a number from 0 up"),
        ([["base", 0, 0.0]], "positive factors alone"),
        ([["base", 0, -1.0]], "positive factors alone"),
        ([["base", 0, True]], "out of range"),
        ([["base", 0, "1"]], "out of range"),
        ([["base", 0, float("nan")]], "out of range"),
        ([["base", 0, float("inf")]], "out of range"),
        ([["base", 0, 1.0]] * 10_001, "at most 10,000"),
    ],
)
def test_what_is_no_step_is_refused(layers: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_recipe(PLAIN.to_json() | {"layers": layers})


def test_a_service_has_its_base_s_layers() -> None:
    rules = RecipeRules(limits=RecipeLimits(), hashes=HASHES)
    assert rules.parse(PLAIN.to_json()) == PLAIN
    with pytest.raises(Refusal, match="leave out `layers`"):
        rules.parse(PATH.to_json())


def test_scales_are_one_factor_on_what_follows() -> None:
    assert [*output_factors(PATH.layers)] == [1.0, 2.0, 2.0]
    assert [*output_factors([("x", 0, 1e-3)] * 200)][-1] == float("inf"), "and no weight of a candidate is a number"
    assert layers_text(PATH.layers) == "base 0, sums 1 (x 0.5), base 1"
    assert layers_text(Recipe(base=BASE, sources=HASHES, rules=()).layers) == ""
