"""A recipe with a name says, tensor by tensor, what its paper says."""

import pytest

from crossbreed.errors import InputError
from crossbreed.recipes import parse_recipe, rule_finder
from crossbreed.recipes.named import layer_swapping
from crossbreed.sources import Structure, TensorInfo
from crossbreed.types import Recipe, Rule

SOURCES = {"base": "00", "swahili": "11", "maths": "22"}
NAMES = [
    "lm_head.weight",
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(12)),
    "model.norm.weight",
]
INFO = TensorInfo(shape=(2, 2), dtype="bfloat16")
STRUCTURE = Structure(tensors=dict.fromkeys(NAMES, INFO), touched={}, hashes=SOURCES, tied=False)


def weights_of(rules: tuple[Rule, ...]) -> dict[str, dict[str, float]]:
    recipe = Recipe(base="base", sources=SOURCES, rules=rules)
    assert parse_recipe(recipe.to_json()) == recipe
    find_rule = rule_finder(recipe)
    return {name: dict(find_rule(name).params["weight"]) for name in NAMES}


def test_layers_are_swapped_and_averaged_between() -> None:
    rules = layer_swapping(STRUCTURE, outer="swahili", inner="maths", bottom=3, top=2, transition=1)
    weights = weights_of(rules)
    expected = 3 * "o" + "-" + 5 * "i" + "-" + 2 * "o"
    said = {"o": {"swahili": 1.0}, "-": {"swahili": 0.5, "maths": 0.5}, "i": {"maths": 1.0}}
    assert [weights[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(12)] == [said[k] for k in expected]
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert weights[name] == said["o"]


@pytest.mark.parametrize(("bottom", "top", "transition", "num_rules"), [(12, 0, 0, 1), (0, 0, 0, 2), (0, 0, 6, 2)])
def test_a_part_without_layers_has_no_rule(bottom: int, top: int, transition: int, num_rules: int) -> None:
    rules = layer_swapping(STRUCTURE, outer="swahili", inner="maths", bottom=bottom, top=top, transition=transition)
    assert len(rules) == num_rules
    assert len(weights_of(rules)) == len(NAMES)


@pytest.mark.parametrize(("bottom", "top", "transition"), [(7, 6, 0), (3, 4, 3), (-1, 0, 0), (0, 0, -1)])
def test_more_layers_than_there_are_is_refused(bottom: int, top: int, transition: int) -> None:
    with pytest.raises(InputError, match="at most 12"):
        layer_swapping(STRUCTURE, outer="swahili", inner="maths", bottom=bottom, top=top, transition=transition)
