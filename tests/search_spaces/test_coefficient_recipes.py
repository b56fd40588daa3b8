"""Points of the coefficient space and recipes, both ways."""

from typing import Any

import pytest
from coefficient_spaces import BANDS, SEARCHED, STRUCTURE, THIRD, decoded, make_space, one_rule, space_of

from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.search_spaces import CoefficientSpace
from crossbreed.testing.spaces import point_at
from crossbreed.types import Recipe, Rule


def test_the_recipe_of_a_point() -> None:
    space = make_space(operator="ties", groups={"layers": 2, "modules": ["mlp"]}, density=[0.2, 0.8])
    recipe = space.decode(space.domain.high)
    assert recipe.sources == STRUCTURE.hashes
    assert recipe.rules[0] == Rule(
        match=r"model\.layers\.(0|1|2)\.mlp\..*",
        operator="ties",
        params={
            "weight": {"french": 1.5, "sums": 1.5, "norms": 1.5},
            "density": dict.fromkeys(THIRD, 819 / 1024),
            "normalize": False,
        },
    )


def test_shares_of_linear_are_a_mixture() -> None:
    space = make_space(operator="linear")
    middle = space.decode(point_at(space, [0.5])).rules[0].params["weight"]
    assert middle == {"french": 0.5, "sums": 0.25, "norms": 0.125, "base": 0.125}
    assert space.decode(space.domain.low).rules[0].params["weight"] == {"french": 0, "sums": 0, "norms": 0, "base": 1}


def labels(space: CoefficientSpace, expert: str = "french") -> list[str]:
    """What is searched of an expert, and of all."""
    return [
        name.removeprefix(f"all / {expert}: ").removeprefix("all: ")
        for name in space.names
        if f"/ {expert}:" in name or "all:" in name
    ]


def test_the_coordinates_of_an_operator_are_what_it_declares() -> None:
    assert labels(make_space()) == ["weight"]
    assert labels(make_space(operator="ties")) == ["weight", "ln density"]
    assert labels(make_space(operator="linear")) == ["share of what is left"]
    assert labels(make_space(operator="della")) == ["weight", "ln density", "epsilon as a part of its limit"]
    assert labels(make_space(operator="model_stock")) == ["scale"]


def test_densities_are_on_the_grid_that_is_looked_up() -> None:
    space = make_space(operator="breadcrumbs", density=[0.3, 0.9])
    for share in (0.0, 0.31, 0.77, 1.0):
        params = space.decode(point_at(space, [share])).rules[0].params
        for name, (low, high) in {"density": (0.3, 0.9), "gamma": (0.0, 0.1)}.items():
            values = params[name]
            assert isinstance(values, dict)
            assert all(value * 1024 == int(value * 1024) and low <= value <= high for value in values.values())


def test_a_limited_parameter_is_a_part_of_what_is_allowed() -> None:
    space = make_space(operator="della", params={"density": [0.25, 0.75], "epsilon": [0.5, 1.0]})
    low, high = (space.decode(corner).rules[0].params["epsilon"] for corner in (space.domain.low, space.domain.high))
    assert (low, high) == (dict.fromkeys(THIRD, 0.125), dict.fromkeys(THIRD, 0.249999))


def test_what_is_fixed_is_said_and_not_searched() -> None:
    params = {"density": 0.5, "epsilon": 0.5, "scale": 1.5, "rescale": False, "weight": {"french": 1.0, "sums": 0.5}}
    space = make_space(operator=["della", "task_arithmetic"], params=params)
    assert space.names == ("operator",)
    assert space.decode(space.domain.low).rules[0].params == {
        "rescale": False,
        "weight": {"french": 1.0, "sums": 0.5, "norms": 0.0},
        "density": dict.fromkeys(THIRD, 0.5),
        "epsilon": dict.fromkeys(THIRD, 0.25),
        "scale": 1.5,
    }


def test_a_scale_is_searched_where_the_weights_do_not_say_it() -> None:
    assert labels(make_space(operator="ties", params={"weight": 1.0})) == ["ln density", "scale"]
    shared = make_space(operator="ties", params={"normalize": True})
    assert labels(shared, "sums") == ["share of what is left", "ln density", "scale"]
    assert labels(shared, "norms") == ["ln density", "scale"], "the last expert takes what is left"
    params = shared.decode(point_at(shared, [0.5])).rules[0].params
    assert (params["weight"], params["normalize"]) == ({"french": 0.5, "sums": 0.25, "norms": 0.25}, True)


def test_operators_share_what_suits_them_all() -> None:
    space = make_space(operator=["pcb", "task_arithmetic"])
    assert (space.domain.low[1], space.domain.high[1]) == (0.0, 1.5)


def test_no_recipe_has_a_negative_zero() -> None:
    space = make_space()
    assert str(space.decode((-1e-9, 0.0, 1e-9)).rules[0].params["weight"]).count("-") == 0


@pytest.mark.parametrize("operator", ["task_arithmetic", "ties", "linear", ["ties", "linear"]])
def test_the_uniform_baseline_starts_every_search(operator: str | list[str]) -> None:
    recipe = decoded(make_space(operator=operator, groups=BANDS), one_rule("task_arithmetic", weight=THIRD))
    for rule in recipe.rules:
        weights, density = rule.params["weight"], rule.params.get("density", {})
        assert isinstance(weights, dict)
        assert isinstance(density, dict)
        experts = {name: weight for name, weight in weights.items() if name != "base"}
        assert experts == pytest.approx(dict.fromkeys(experts, 1 / 3), abs=2e-6)
        assert set(density.values()) <= {1.0}
    assert {rule.operator for rule in recipe.rules} == {operator if isinstance(operator, str) else "linear"}


@pytest.mark.parametrize("operator", [name for name in SEARCHED if OPERATOR_SPECS[name].param("weight")])
def test_weights_on_deltas_start_a_search_with_any_operator_that_has_weights(operator: str) -> None:
    space = space_of(operator, {})
    experts = space.groups[0].experts
    uniform = Recipe(
        base="base",
        sources={name: STRUCTURE.hashes[name] for name in ("base", *experts)},
        rules=(Rule(match=".*", operator="task_arithmetic", params={"weight": 1 / len(experts)}),),
    )
    weights = decoded(space, uniform).rules[0].params["weight"]
    assert isinstance(weights, dict)
    assert {name: weights[name] for name in experts} == pytest.approx(
        dict.fromkeys(experts, 1 / len(experts)), abs=2e-6
    )


@pytest.mark.parametrize(
    ("scale", "weight"), [(0.5, 0.166667), (1.5, 0.5), (3.0, 1.0), (6.0, 1.5)], ids=["half", "1.5", "3", "clipped"]
)
def test_scaled_baselines_are_clipped_into_the_box(scale: float, weight: float) -> None:
    recipe = decoded(make_space(), one_rule("task_arithmetic", weight=THIRD, scale=scale))
    assert recipe.rules[0].params["weight"] == dict.fromkeys(THIRD, weight)


def test_more_than_a_whole_keeps_its_ratios_as_shares() -> None:
    recipe = decoded(make_space(operator="linear"), one_rule("task_arithmetic", weight={"french": 1.5, "sums": 0.5}))
    assert recipe.rules[0].params["weight"] == {"french": 0.75, "sums": 0.25, "norms": 0.0, "base": 0.0}


def test_an_average_of_models_is_weights_on_deltas() -> None:
    recipe = decoded(make_space(), one_rule("linear", weight={"base": 2.0, "french": 1.0, "sums": 1.0}))
    assert recipe.rules[0].params["weight"] == {"french": 0.25, "sums": 0.25, "norms": 0.0}


def test_a_depth_profile_is_weights_that_grow_with_the_layer() -> None:
    recipe = one_rule("task_arithmetic", weight=0.8, lines_alpha=0.25, lines_beta=0.75)
    space = make_space(groups={"layers": "each", "modules": ["mlp"]})
    weights = [rule.params["weight"] for rule in decoded(space, recipe).rules]
    assert [weight["french"] for weight in weights[:6]] == pytest.approx(  # type: ignore[index]
        [0.8 * (0.25 + 0.75 * layer / 5) for layer in range(6)], abs=1e-6
    )


@pytest.mark.parametrize("operator", ["task_arithmetic", "ties"])
def test_weights_make_up_for_a_depth_profile_of_the_space(operator: str) -> None:
    params = {"lines_alpha": 0.5, "lines_beta": 1.0}
    space = make_space(operator=operator, groups={"layers": "each", "modules": ["mlp"]}, params=params)
    rules = decoded(space, one_rule("task_arithmetic", weight=0.45)).rules
    assert {rule.params["lines_beta"] for rule in rules} == {1.0}
    weights = [rule.params["weight"]["french"] for rule in rules[:6]]  # type: ignore[index,call-overload]
    assert [weight * (0.5 + layer / 5) for layer, weight in enumerate(weights)] == pytest.approx([0.45] * 6, abs=2e-6)


def test_a_profile_that_is_searched_is_found() -> None:
    space = make_space(params={"lines_beta": [0.0, 1.0]})
    params = decoded(space, one_rule("task_arithmetic", weight=THIRD, lines_beta=0.25)).rules[0].params
    assert (params["weight"], params["lines_beta"]) == (dict.fromkeys(THIRD, 0.333333), 0.25)


def test_the_examples_are_of_every_operator_and_read_all_weights() -> None:
    space = make_space(operator=["ties", "linear"], groups=BANDS)
    examples = space.examples
    assert [{rule.operator for rule in recipe.rules} for recipe in examples] == [{"ties"}, {"linear"}]
    for recipe in examples:
        assert all(all(rule.params["weight"].values()) for rule in recipe.rules)  # type: ignore[union-attr]


def test_the_base_is_the_zero_of_every_space() -> None:
    nothing = Recipe(base="base", sources=STRUCTURE.hashes, rules=(), dtype="bfloat16")
    assert decoded(make_space(), nothing).rules[0].params["weight"] == dict.fromkeys(THIRD, 0.0)


def test_finer_recipes_are_averaged() -> None:
    fine = make_space(groups={"layers": "each"})
    recipe = fine.decode(tuple(float(name.startswith(("layer 0", "layer 1"))) for name in fine.names))
    weights = [rule.params["weight"] for rule in decoded(make_space(groups={"layers": 2}), recipe).rules]
    assert weights[0] == dict.fromkeys(THIRD, 0.666667)
    assert weights[1] == dict.fromkeys(THIRD, 0.0)


def test_sources_are_known_by_their_hashes() -> None:
    renamed = {"w0": STRUCTURE.hashes["base"], "fr": STRUCTURE.hashes["french"]}
    rule = Rule(match=".*", operator="task_arithmetic", params={"weight": {"fr": 0.7}})
    recipe = decoded(make_space(), Recipe(base="w0", sources=renamed, rules=(rule,)))
    assert recipe.rules[0].params["weight"] == {"french": 0.7, "sums": 0.0, "norms": 0.0}


def test_a_scale_is_absorbed_by_the_weights() -> None:
    recipe = one_rule("ties", weight=THIRD, scale=3.0, density=0.5, normalize=False)
    params = decoded(make_space(operator="ties"), recipe).rules[0].params
    assert (params["weight"], params["density"]) == (dict.fromkeys(THIRD, 1.0), dict.fromkeys(THIRD, 0.5))


@pytest.mark.parametrize(
    "params",
    [{"pick": "largest"}, {"normalize": True}, {"consensus": "count"}, {"lines_beta": 0.5}],
    ids=lambda params: next(iter(params)),
)
def test_what_is_not_searched_must_be_as_the_space_has_it(params: dict[str, Any]) -> None:
    recipe = one_rule("ties", **{"weight": THIRD, "density": 0.5, "normalize": False, **params})
    assert make_space(operator="ties").encode(recipe) is None
    assert make_space(operator="ties", params=params).encode(recipe) is not None


def test_an_operator_without_weights_merges_what_there_is() -> None:
    space = make_space(operator="sce")
    recipe = one_rule("sce", select_topk=0.5)
    assert decoded(space, recipe) == recipe
    fewer = {name: digest for name, digest in STRUCTURE.hashes.items() if name != "sums"}
    assert space.encode(Recipe(base="base", sources=fewer, rules=recipe.rules)) is None
    assert space.encode(one_rule("task_arithmetic", weight=THIRD)) is None


@pytest.mark.parametrize(
    "recipe",
    [
        one_rule("ties", weight=THIRD, density=0.3, normalize=False),
        one_rule("ties", weight=THIRD),
        one_rule("linear", weight={"french": 1.0, "base": 1.0}, normalize=False),
        one_rule("linear", weight={"french": 1.0, "base": -1.0}),
        Recipe(
            base="base",
            sources={**STRUCTURE.hashes, "stranger": "?"},
            rules=(Rule(match=".*", operator="task_arithmetic", params={"weight": {"stranger": 0.1}}),),
        ),
        Recipe(
            base="base",
            sources=STRUCTURE.hashes,
            rules=(
                Rule(match=".*mlp.*", operator="ties", params={"weight": THIRD, "normalize": False}),
                Rule(match=".*", operator="task_arithmetic", params={"weight": THIRD}),
            ),
        ),
    ],
    ids=["trimmed", "normalized by survivors", "sum of models", "zero sum", "stranger", "mixed operators"],
)
def test_what_the_space_cannot_express_has_no_point(recipe: Recipe) -> None:
    assert make_space().encode(recipe) is None
