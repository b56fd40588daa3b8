"""The coefficient space: the laws for every operator, which tensors get which coordinates, and what is refused."""

import re
from dataclasses import replace
from typing import Any

import pytest
from coefficient_spaces import BANDS, SEARCHED, STRUCTURE, inputs_of, make_space, space_of
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crossbreed.errors import InputError
from crossbreed.recipes import parse_recipe
from crossbreed.recipes.operators import OPERATOR_SPECS, ParamKind
from crossbreed.search_spaces import CoefficientsConfig, CoefficientSpace, SearchSpace
from crossbreed.search_spaces.layout import Layout
from crossbreed.sources.structure import Structure
from crossbreed.testing.spaces import SHARES, SpaceConformance, make_structure, point_at


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
    @pytest.fixture(params=SEARCHED)
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
    return {name: setting for name, setting in said.items() if setting is not None and not layout.why_unused(name)}


@pytest.mark.parametrize("operator", SEARCHED)
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
    space = CoefficientSpace(CoefficientsConfig.model_validate({"groups": BANDS}), inputs_of(structure))
    assert "rest" not in [group.label for group in space.groups]
    rules = space.decode(space.domain.low).rules
    matched = {name for name in structure.tensors for rule in rules if re.fullmatch(rule.match, name)}
    assert matched == structure.touched["french"]


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
        ({"operator": "ties", "params": {"densty": 0.5}}, r"`densty` has no effect(?s:.*)did you mean `density`"),
        ({"operator": "ties", "params": {"scale": [0.5, 1.0]}}, "searched weights already express it"),
        ({"operator": "linear", "params": {"normalize": False}}, "shares of a whole"),
        ({"operator": "bmm", "params": {"density": 0.5}}, "only with `anchor: ties`"),
        ({"operator": "ties", "density": [0.1, 0.5], "params": {"density": 0.5}}, "given twice"),
        ({"operator": "ties", "density": [0.1, 1.0], "params": {"density": 0.5}}, "given twice"),
        ({"operator": "ties", "params": {"density": [0.5, 0.5]}}, "lower bound first"),
        ({"operator": "ties", "params": {"density": [0.5, 0.5001]}}, "steps of 1/1024"),
        ({"operator": "ties", "params": {"density": 1.5}}, "greater than 0 and at most 1, got 1.5"),
        ({"operator": "ties", "params": {"density": [0.1, 0.2, 0.3]}}, r"set to a range, to one value"),
        ({"operator": "ties", "params": {"trim": "modell"}}, "one of tensor, model"),
        ({"operator": "ties", "params": {"scale": {"french": 1.0}}}, "not a parameter of each expert"),
        ({"operator": "della", "params": {"epsilon": 1.5}}, "a fraction of its limit"),
        ({"operator": "della", "params": {"epsilon": [0.5, 2.0]}}, "in fractions of its limit"),
        ({"operator": "della", "params": {"rescale": [0, 1]}}, "true or false"),
        ({"operator": "nearswap", "params": {"t": [0, 1]}}, "on a log scale"),
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
        ({"operator": "passthrough", "params": {"source": "frensh"}}, "names the unknown source `frensh`"),
        ({"params": {"weight": {"frensh": 1.0}}}, "names the unknown source `frensh`"),
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
        CoefficientSpace(CoefficientsConfig(), inputs_of(same))


def test_weights_alone_make_weight_blocks() -> None:
    space = make_space(operator="task_arithmetic", groups={"layers": 2})
    assert space.domain.weight_blocks is not None
    assert [index for block in space.domain.weight_blocks for index in block.values()] == list(range(len(space.names)))
    for block, group in zip(space.domain.weight_blocks, space.groups, strict=True):
        assert tuple(block) == group.experts
        assert all(space.names[index] == f"{group.label} / {expert}: weight" for expert, index in block.items())


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"operator": "ties"}, "`density` of `ties` is searched"),
        ({"operator": "linear"}, "`linear` does not sum weighted deltas"),
        ({"weight": [-0.5, 0.0]}, "cannot be above 0"),
        ({"operator": "ties", "params": {"density": 0.5, "normalize": True}}, "shares of a whole"),
        ({"operator": ["task_arithmetic", "ties"], "params": {"density": 0.5}}, "the operator is searched"),
        ({"params": {"scale": 0.3}}, "`scale: 0.3` multiplies the weights"),
        ({"params": {"lines_alpha": 0, "lines_beta": 1}}, "`lines_alpha: 0` multiplies the weights"),
        ({"params": {"lines_beta": 0.5}}, "`lines_beta: 0.5` multiplies the weights"),
        ({"params": {"lines_beta": [0, 1]}}, "`lines_beta` of `task_arithmetic` is searched"),
        ({"operator": "bmm", "params": {"lambda": 1.0, "scale": 1.0}}, "`bmm` does not sum"),
        ({"operator": "swudi", "params": {"time": 300.0, "scale": 1.0}}, "`swudi` does not sum"),
        ({"operator": "tsv_m", "params": {"rank": 1.0}}, "`tsv_m` does not sum"),
    ],
)
def test_a_space_without_weight_blocks_says_why(config: dict[str, Any], why: str) -> None:
    space = make_space(**config)
    assert space.domain.weight_blocks is None
    assert why in (space.domain.why_no_weight_blocks or "")


@pytest.mark.parametrize(
    "config",
    [
        {"params": {"scale": 1.0, "lines_beta": 0.0}},
        {"operator": "ties", "params": {"density": 0.5}},
        {"operator": "dare_linear", "params": {"density": 0.5}},
    ],
)
def test_settings_that_are_no_factors_leave_weight_blocks(config: dict[str, Any]) -> None:
    space = make_space(**config)
    assert space.domain.weight_blocks
    assert space.domain.why_no_weight_blocks is None


def test_a_group_s_slope_is_the_sum_of_its_tensors() -> None:
    space = make_space(operator="task_arithmetic", groups={"layers": 2})
    assert space.domain.weight_blocks is not None
    found = {
        name: {expert: 10.0**place for place, expert in enumerate(group.experts)}
        for group in space.groups
        for name in group.tensors
    }
    left_out = space.groups[0].tensors[0]
    del found[left_out]
    slopes = space.slopes(found)
    for block, group in zip(space.domain.weight_blocks, space.groups, strict=True):
        num_tensors = len(group.tensors) - (left_out in group.tensors)
        assert [slopes[block[expert]] for expert in group.experts] == [
            num_tensors * 10.0**place for place in range(len(group.experts))
        ]


# Operators on factors


@pytest.mark.parametrize(
    ("ranks", "problem"),
    [
        ({}, None),
        ({"french": 4}, None),
        ({"french": 4, "sums": 4}, None),
        ({"french": 4, "sums": 8}, "ranks differ"),
        ({"french": 4, "sums": 0}, "`sums` has none"),
    ],
)
def test_factors_that_cannot_be_added_are_refused_as_far_as_a_structure_says(
    ranks: dict[str, int], problem: str | None
) -> None:
    """Also the JSON of a service, whose client has no weights; one that does not say ranks is believed."""
    plain = make_structure(num_layers=2)
    plain = replace(plain, hashes={name: f"hash-of-{name}" for name in plain.hashes})
    said = {name: dict.fromkeys(plain.touched[name], rank) if rank else {} for name, rank in ranks.items()}
    structure = Structure.from_json(replace(plain, ranks=said).to_json())
    for operator in ("lora_factors", ["ties", "lora_factors"]):
        config = CoefficientsConfig(operator=operator, params={"weight": (-1.0, 1.0), "density": (0.5, 1.0)})
        if problem is None:
            CoefficientSpace(config, inputs_of(structure))
        else:
            with pytest.raises(InputError, match=problem):
                CoefficientSpace(config, inputs_of(structure))
