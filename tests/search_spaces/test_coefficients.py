"""The coefficient space: the laws for every operator, and which tensors get which coordinates."""

import re
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crossbreed.errors import InputError
from crossbreed.operators import OPERATOR_SPECS, ParamKind, ParamSpec
from crossbreed.recipes import parse_recipe
from crossbreed.search_spaces import CoefficientsConfig, CoefficientSpace, SearchSpace, build_space
from crossbreed.search_spaces.layout import Layout
from crossbreed.testing.spaces import SHARES, SpaceConformance, make_structure, point_at
from crossbreed.types import Recipe, Rule

EXPERTS = ("french", "sums", "norms")
STRUCTURE = make_structure(experts=EXPERTS)
BANDS = {"layers": 3, "modules": ["attention", "mlp"]}
THIRD = {"french": 1 / 3, "sums": 1 / 3, "norms": 1 / 3}


def make_space(**config: Any) -> CoefficientSpace:
    return build_space(CoefficientsConfig.model_validate(config), STRUCTURE, "bfloat16")


def space_of(operator: str, params: dict[str, Any], **config: Any) -> CoefficientSpace:
    """A space over as many experts as the operator takes, with what only a spec can say of it."""
    spec = OPERATOR_SPECS[operator]
    missing = Layout.of(operator, params).missing
    told = {name: made_up(param) for name in missing if (param := spec.param(name)) is not None}
    parsed = CoefficientsConfig.model_validate({"operator": operator, "params": told | params, **config})
    return build_space(parsed, make_structure(num_layers=2, experts=EXPERTS[: spec.num_experts[1]]), "bfloat16")


def made_up(param: ParamSpec) -> str | dict[str, float]:
    return "french" if param.kind is ParamKind.NAME else {"french": 0.25, "sums": 0.75}


def one_rule(operator: str, **params: Any) -> Recipe:
    rule = Rule(match=".*", operator=operator, params=params)
    return Recipe(base="base", sources=STRUCTURE.hashes, rules=(rule,), dtype="bfloat16")


def decoded(space: CoefficientSpace, recipe: Recipe) -> Recipe:
    point = space.encode(recipe)
    assert point is not None
    return space.decode(point)


class TestTaskArithmetic(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return make_space(groups=BANDS)


class TestTies(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return make_space(operator="ties", groups={"layers": "each"})


class TestLinear(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return make_space(operator="linear", groups={"modules": ["norm", "embedding", "attention"]})


class TestOperatorGene(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return make_space(operator=["task_arithmetic", "ties", "linear"], groups=BANDS, weight=[-1, 2])


class TestSpectrumOfOperators(SpaceConformance):
    """Some whose ranges of one parameter differ, and all the ways in which weights are searched."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        return make_space(operator=["della", "bmm", "karcher"], params={"anchor": "ties"})


class TestEveryOperator(SpaceConformance):
    @pytest.fixture(params=OPERATOR_SPECS)
    def space(self, request: pytest.FixtureRequest) -> SearchSpace:
        return space_of(request.param, {}, groups={"modules": ["mlp"]})


@st.composite
def settings_of(draw: st.DrawFn, operator: str) -> dict[str, Any]:
    """A few of an operator's parameters with narrower ranges, or fixed."""
    said: dict[str, Any] = {}
    for param in OPERATOR_SPECS[operator].params:
        kinds = {ParamKind.FLAG: st.booleans(), ParamKind.CHOICE: st.sampled_from(param.options or ("",))}
        if param.kind in kinds:
            said[param.name] = draw(st.none() | kinds[param.kind])
        elif param.search is not None:
            low, high = (0.0, 1.0) if param.limit else param.search
            fixed = st.integers(1, 9).map(lambda part, low=low, high=high: low + part / 10 * (high - low))
            number = fixed.map(round) if param.integer else fixed
            ends = st.tuples(number, number).filter(lambda ends: ends[0] < ends[1])
            said[param.name] = draw(st.none() | number | ends)
    layout = Layout.of(operator, {name: setting for name, setting in said.items() if setting is not None})
    return {name: setting for name, setting in said.items() if setting is not None and not layout.why_idle(name)}


@pytest.mark.parametrize("operator", OPERATOR_SPECS)
@settings(max_examples=10, deadline=None)
@given(data=st.data(), shares=SHARES)
def test_whatever_a_spec_says_of_parameters_the_laws_hold(
    operator: str, data: st.DataObject, shares: list[float]
) -> None:
    try:
        space = space_of(operator, data.draw(settings_of(operator)))
    except InputError:  # all of them are fixed
        reject()
    recipe = space.decode(point_at(space, shares))
    assert parse_recipe(recipe.to_json()) == recipe
    point = space.encode(recipe)
    assert point is not None
    assert space.decode(point) == recipe


# Groups


def test_bands_by_modules_and_one_rest() -> None:
    space = make_space(groups=BANDS)
    labels = [group.label for group in space.groups]
    assert labels == [f"layers {band} / {m}" for band in ("0-1", "2-3", "4-5") for m in ("attention", "mlp")] + ["rest"]


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"layers": 1},
        {"layers": 4, "modules": ["mlp"]},
        {"layers": "each", "modules": ["norm"]},
        {"layers": "each", "modules": ["attention", "mlp", "norm", "embedding"]},
        {"modules": ["norm"]},
        {"modules": ["embedding", "mlp"]},
    ],
)
def test_every_changed_tensor_obeys_the_rule_of_its_group(groups: dict[str, Any]) -> None:
    space = make_space(groups=groups)
    owner = {name: group.label for group in space.groups for name in group.tensors}
    assert set(owner) == set(STRUCTURE.tensors), "`norms` changes every tensor"
    for name, label in owner.items():
        assert next(group.label for group in space.groups if re.fullmatch(group.match, name)) == label


def test_patterns_are_readable() -> None:
    assert [group.match for group in make_space(groups={"layers": 2}).groups] == [
        r"model\.layers\.(0|1|2)\..*",
        r"model\.layers\.(3|4|5)\..*",
        ".*",
    ]
    assert [group.match for group in make_space(groups=BANDS).groups][:2] == [
        # spelled out, because `self_attn.q_norm` is a norm
        r"model\.layers\.(0|1)\.(self_attn\.k_proj\.weight|self_attn\.o_proj\.weight|self_attn\.q_proj\.weight"
        r"|self_attn\.v_proj\.weight)",
        r"model\.layers\.(0|1)\.mlp\..*",
    ]
    assert [group.match for group in make_space(groups={"modules": ["mlp", "norm"]}).groups] == [
        r"model\.layers\.\d+\.mlp\..*",
        r"model\.layers\.\d+\.(input_layernorm\.weight|self_attn\.q_norm\.weight)|model\.norm\.weight",
        ".*",
    ]


def test_a_pair_without_deltas_gets_no_coordinate() -> None:
    names = make_space(groups=BANDS).names
    assert "layers 0-1 / mlp / sums: weight" in names
    assert "layers 0-1 / attention / sums: weight" not in names
    assert [name for name in names if name.startswith("rest")] == ["rest / norms: weight"]


def test_what_no_expert_touches_gets_no_rule() -> None:
    structure = make_structure(experts=("french",))
    space = build_space(CoefficientsConfig.model_validate({"groups": BANDS}), structure, "bfloat16")
    assert "rest" not in [group.label for group in space.groups]
    rules = space.decode(space.low).rules
    matched = {name for name in structure.tensors for rule in rules if re.fullmatch(rule.match, name)}
    assert matched == structure.touched["french"]


# Recipes


def test_the_recipe_of_a_point() -> None:
    space = make_space(operator="ties", groups={"layers": 2, "modules": ["mlp"]}, density=[0.2, 0.8])
    recipe = space.decode(space.high)
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
    assert space.decode(space.low).rules[0].params["weight"] == {"french": 0, "sums": 0, "norms": 0, "base": 1}


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
    low, high = (space.decode(corner).rules[0].params["epsilon"] for corner in (space.low, space.high))
    assert (low, high) == (dict.fromkeys(THIRD, 0.125), dict.fromkeys(THIRD, 0.249999))


def test_what_is_fixed_is_said_and_not_searched() -> None:
    params = {"density": 0.5, "epsilon": 0.5, "scale": 1.5, "rescale": False, "weight": {"french": 1.0, "sums": 0.5}}
    space = make_space(operator=["della", "task_arithmetic"], params=params)
    assert space.names == ("operator",)
    assert space.decode(space.low).rules[0].params == {
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
    assert (space.low[1], space.high[1]) == (0.0, 1.5)


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


@pytest.mark.parametrize("operator", [name for name, spec in OPERATOR_SPECS.items() if spec.param("weight")])
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


# Wrong input


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"weight": [1.5, -0.5]}, r"low < high, got \[1.5, -0.5\]"),
        ({"operator": "tise"}, "did you mean `ties`"),
        ({"operator": ["ties", "dare"]}, "unknown operator `dare`"),
        ({"operator": []}, "at least one operator"),
        ({"operator": "ties", "density": [0.0, 1.0]}, r"within \(0, 1\]"),
        ({"density": [0.2, 0.9]}, "`density` has no effect"),
        ({"operator": "task_arithmetic", "density": [0.1, 1]}, "`density` has no effect"),
        ({"operator": "slerp", "weight": [-0.5, 1.5]}, "`weight` has no effect"),
        ({"operator": "linear", "weight": [0, 1]}, "`weight` has no effect"),
        ({"operator": "ties", "params": {"densty": 0.5}}, r"`densty` has no effect: .* did you mean `density`"),
        ({"operator": "ties", "params": {"scale": [0.5, 1.0]}}, "weights, which are searched, say it already"),
        ({"operator": "linear", "params": {"normalize": False}}, "shares of a whole"),
        ({"operator": "bmm", "params": {"density": 0.5}}, "only with `anchor: ties`"),
        ({"operator": "ties", "density": [0.1, 0.5], "params": {"density": 0.5}}, "given twice"),
        ({"operator": "ties", "density": [0.1, 1.0], "params": {"density": 0.5}}, "given twice"),
        ({"operator": "ties", "params": {"density": [0.5, 0.5]}}, "lower bound first"),
        ({"operator": "ties", "params": {"density": [0.5, 0.5001]}}, "steps of 1/1024"),
        ({"operator": "ties", "params": {"density": 1.5}}, "greater than 0 and at most 1, got 1.5"),
        ({"operator": "ties", "params": {"density": [0.1, 0.2, 0.3]}}, r"a range \[low, high\], one value"),
        ({"operator": "ties", "params": {"trim": "modell"}}, "one of tensor, model"),
        ({"operator": "ties", "params": {"scale": {"french": 1.0}}}, "experts have none of their own"),
        ({"operator": "della", "params": {"epsilon": 1.5}}, "a fraction of its limit"),
        ({"operator": "della", "params": {"epsilon": [0.5, 2.0]}}, "in fractions of its limit"),
        ({"operator": "della", "params": {"rescale": [0, 1]}}, "true or false"),
        ({"operator": "nearswap", "params": {"t": [0, 1]}}, "by its logarithm"),
        ({"operator": "passthrough"}, "needs `source`"),
        ({"operator": ["regmean", "della"], "weight": [-0.5, 1.0]}, r"within \[0, inf\)"),
        ({"groups": {"layers": 0}}, "greater than or equal to 1"),
        ({"groups": {"modules": ["atention"]}}, "attention"),
        ({"bands": 3}, "bands"),
    ],
)
def test_wrong_settings_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CoefficientsConfig.model_validate(config)


@pytest.mark.parametrize("config", [{}, {"operator": "linear"}, {"operator": ["linear", "ties"], "groups": BANDS}])
def test_a_spec_with_its_defaults_written_out_is_the_same(config: dict[str, Any]) -> None:
    parsed = CoefficientsConfig.model_validate(config)
    assert CoefficientsConfig.model_validate(parsed.model_dump(mode="json")) == parsed


@pytest.mark.parametrize("operator", ["ties", ["task_arithmetic", "ties"]])
def test_what_an_operator_reads_may_be_given_as_it_is(operator: str | list[str]) -> None:
    usual = CoefficientsConfig.model_validate({"operator": operator})
    assert CoefficientsConfig.model_validate({"operator": operator, "density": [0.1, 1.0]}) == usual


def test_more_bands_than_layers_are_refused() -> None:
    with pytest.raises(InputError, match="more bands than layers") as caught:
        make_space(groups={"layers": 7})
    assert (caught.value.expected, caught.value.got) == ("at most 6, the layers of the base", "7")


def test_a_module_type_that_the_base_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="no tensor of module type `other`"):
        make_space(groups={"modules": ["other"]})


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"operator": "slerp"}, "`slerp` does not merge that many experts"),
        ({"operator": "passthrough", "params": {"source": "frensh"}}, "`frensh` is no source"),
        ({"params": {"weight": {"frensh": 1.0}}}, "`frensh` is no source"),
        ({"params": {"weight": 1.0, "scale": 1.0}}, "there is nothing to search"),
    ],
)
def test_settings_that_do_not_fit_the_sources_are_refused(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        make_space(**config)


def test_experts_equal_to_the_base_are_refused() -> None:
    structure = make_structure()
    same = type(structure)(
        tensors=structure.tensors, touched={"french": frozenset()}, hashes=structure.hashes, tied=True
    )
    with pytest.raises(InputError, match="nothing to search"):
        build_space(CoefficientsConfig(), same, "bfloat16")


def test_weights_alone_make_hulls() -> None:
    space = make_space(operator="task_arithmetic", groups={"layers": 2})
    assert space.hulls is not None
    assert [index for hull in space.hulls for index in hull.values()] == list(range(len(space.names)))
    for hull, group in zip(space.hulls, space.groups, strict=True):
        assert tuple(hull) == group.experts
        assert all(space.names[index] == f"{group.label} / {expert}: weight" for expert, index in hull.items())


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"operator": "ties"}, "`density` of `ties` is searched"),
        ({"operator": "linear"}, "`linear` does not add weighted deltas up"),
        ({"weight": [-0.5, 0.0]}, "cannot be above 0"),
        ({"operator": "ties", "params": {"density": 0.5, "normalize": True}}, "shares of a whole"),
        ({"operator": ["task_arithmetic", "ties"], "params": {"density": 0.5}}, "the operator is searched"),
        ({"params": {"scale": 0.3}}, "`scale: 0.3` multiplies the weights"),
        ({"params": {"lines_alpha": 0, "lines_beta": 1}}, "`lines_alpha: 0` multiplies the weights"),
        ({"params": {"lines_beta": 0.5}}, "`lines_beta: 0.5` multiplies the weights"),
        ({"params": {"lines_beta": [0, 1]}}, "`lines_beta` of `task_arithmetic` is searched"),
        ({"operator": "bmm", "params": {"lambda": 1.0, "scale": 1.0}}, "`bmm` does not add"),
        ({"operator": "swudi", "params": {"time": 300.0, "scale": 1.0}}, "`swudi` does not add"),
        ({"operator": "tsv_m", "params": {"rank": 1.0}}, "`tsv_m` does not add"),
    ],
)
def test_a_space_that_is_no_hull_says_why(config: dict[str, Any], why: str) -> None:
    space = make_space(**config)
    assert space.hulls is None
    assert why in (space.why_no_hulls or "")


@pytest.mark.parametrize(
    "config",
    [
        {"params": {"scale": 1.0, "lines_beta": 0.0}},
        {"operator": "ties", "params": {"density": 0.5}},
        {"operator": "dare_linear", "params": {"density": 0.5}},
    ],
)
def test_settings_that_are_no_factors_leave_hulls(config: dict[str, Any]) -> None:
    space = make_space(**config)
    assert space.hulls
    assert space.why_no_hulls is None


def test_a_group_s_slope_is_the_sum_of_its_tensors() -> None:
    space = make_space(operator="task_arithmetic", groups={"layers": 2})
    assert space.hulls is not None
    found = {
        name: {expert: 10.0**place for place, expert in enumerate(group.experts)}
        for group in space.groups
        for name in group.tensors
    }
    left_out = space.groups[0].tensors[0]
    del found[left_out]
    slopes = space.slopes(found)
    for hull, group in zip(space.hulls, space.groups, strict=True):
        num_tensors = len(group.tensors) - (left_out in group.tensors)
        assert [slopes[hull[expert]] for expert in group.experts] == [
            num_tensors * 10.0**place for place in range(len(group.experts))
        ]
