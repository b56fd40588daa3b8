"""The recipe's grammar: exact there and back, strict on the way in, and the same merge in mergekit's words."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbreed.errors import InputError
from crossbreed.mergekit import to_mergekit, why_not_mergekit
from crossbreed.recipes import dump_recipe, load_recipe, parse_recipe, rule_finder
from crossbreed.recipes.operators import DEPTH_PROFILE, OPERATOR_SPECS, ParamKind, ParamSpec
from crossbreed.sources import Structure, TensorInfo, layer_of
from crossbreed.types import Recipe, Rule

SOURCES = {"base": "00aa", "sums": "11bb", "été": "22cc"}
NAMES = [
    "lm_head.weight",
    "model.embed_tokens.weight",
    *(
        f"model.layers.{layer}.{module}.weight"
        for layer in range(4)
        for module in ("input_layernorm", "mlp.down_proj", "mlp.up_proj", "self_attn.q_norm", "self_attn.q_proj")
    ),
    "model.norm.weight",
]
INFO = TensorInfo(shape=(2, 2), dtype="bfloat16")
STRUCTURE = Structure(tensors=dict.fromkeys(NAMES, INFO), touched={}, hashes=SOURCES, tied=False)
PATHS = {"base": "org/base", "sums": "/experts/sums", "été": "/experts/ete"}
PATTERNS = [
    r".*",
    r"model\.layers\.[01]\..*",
    r"model\.layers\.[12]\.mlp\..*",
    r".*\.self_attn\.q_proj\.weight",
    r".*norm.*",
    r"lm_head\.weight|model\.embed_tokens\.weight",
    r"model\.layers\.3\.mlp\.up_proj\.weight",
]
VALID: dict[str, Any] = {
    "schema": 1,
    "base": "base",
    "sources": SOURCES,
    "rules": [{"match": ".*", "operator": "ties", "params": {"weight": {"sums": 0.5}, "density": 0.2}}],
}


def values_of(param: ParamSpec) -> st.SearchStrategy[Any]:
    match param.kind:
        case ParamKind.FLAG:
            return st.booleans()
        case ParamKind.CHOICE:
            return st.sampled_from(param.options)
        case ParamKind.NAME:
            return st.sampled_from(list(SOURCES))
    low, high = max(-1e6, param.at_least, param.above), min(1e6, param.at_most, param.below)
    if param.integer:
        return st.integers(int(low), int(high)).map(float)
    if param.limit is not None:
        return st.just(0.0)
    value = st.floats(low, high, exclude_min=low == param.above, exclude_max=high == param.below)
    takers = [name for name in SOURCES if name != "base" or param.kind is ParamKind.SOURCE]
    if param.kind is ParamKind.NUMBERS:
        return st.dictionaries(st.sampled_from(takers), st.lists(value, max_size=3).map(tuple))
    return value | st.dictionaries(st.sampled_from(takers), value) if param.is_per_source else value


def params_of(params: Iterable[ParamSpec]) -> st.SearchStrategy[dict[str, Any]]:
    required, optional = {}, {}
    for param in params:
        (required if param.required or param.limit else optional)[param.name] = values_of(param)
    return st.fixed_dictionaries(required, optional=optional)


def rules_of(*operators: str, without: Collection[str] = ()) -> st.SearchStrategy[tuple[Rule, ...]]:
    rule = st.sampled_from(operators).flatmap(
        lambda operator: st.builds(
            Rule,
            match=st.sampled_from(PATTERNS),
            operator=st.just(operator),
            params=params_of(param for param in OPERATOR_SPECS[operator].params if param.name not in without),
        )
    )
    return st.lists(rule, max_size=4).map(tuple)


def recipes(rules: st.SearchStrategy[tuple[Rule, ...]]) -> st.SearchStrategy[Recipe]:
    return st.builds(
        Recipe,
        base=st.just("base"),
        sources=st.just(SOURCES),
        rules=rules,
        dtype=st.sampled_from(["bfloat16", "float16", "float32"]),
        artifacts=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    )


@settings(deadline=None)
@given(recipe=recipes(rules_of(*(name for name, spec in OPERATOR_SPECS.items() if not spec.why_invalid(2)))))
def test_text_round_trips_exactly(recipe: Recipe) -> None:
    for parsed in (
        parse_recipe(recipe.to_json()),
        parse_recipe(json.loads(json.dumps(recipe.to_json()))),
        parse_recipe(yaml.safe_load(dump_recipe(recipe))),
    ):
        assert parsed == recipe
        assert parsed.id == recipe.id


def test_equal_recipes_have_equal_ids() -> None:
    recipes = [
        Recipe(base="base", sources=SOURCES, rules=(Rule(match=".*", operator="ties", params={"weight": weight}),))
        for weight in (1, 1.0, {"sums": 0.0}, {"sums": -0.0}, {"sums": 0})
    ]
    assert len({recipe.id for recipe in recipes}) == 2
    assert recipes[0] == parse_recipe(recipes[0].to_json())


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_files_are_read(tmp_path: Path, suffix: str) -> None:
    recipe, path = parse_recipe(VALID), tmp_path / f"recipe{suffix}"
    path.write_text(dump_recipe(recipe) if suffix == ".yaml" else json.dumps(recipe.to_json()), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_defaults_are_the_type_s() -> None:
    assert parse_recipe(VALID) == Recipe(
        base="base",
        sources=SOURCES,
        rules=(Rule(match=".*", operator="ties", params={"weight": {"sums": 0.5}, "density": 0.2}),),
    )


def with_rule(**changes: Any) -> dict[str, Any]:
    return VALID | {"rules": [VALID["rules"][0] | changes]}


def with_params(**changes: Any) -> dict[str, Any]:
    return with_rule(params=VALID["rules"][0]["params"] | changes)


def with_components(value: Any) -> dict[str, Any]:
    return with_rule(operator="rank_components", params={"weight": 0.5, "components": value})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([], "not a mapping"),
        ({"name": "x", "sources": {}, "fitness": {}}, "a run's spec"),
        ({key: VALID[key] for key in VALID if key != "base"}, "`base` is missing"),
        (VALID | {"dtpye": "float32"}, "did you mean `dtype`"),
        (VALID | {"schema": 2}, "another schema"),
        (VALID | {"base": "bass"}, "not one of the sources"),
        (VALID | {"sources": {"base": 1}}, "names to hashes"),
        (VALID | {"rules": "all"}, "not a list"),
        (VALID | {"dtype": "int8"}, "no such dtype"),
        (with_rule(match="("), "regular expression"),
        (with_rule(match=3), "regular expression"),
        (with_rule(operator="tie"), "did you mean `ties`"),
        (with_rule(operator=None), "unknown operator `None`"),
        (with_rule(params={"density": 0.5}), "`weight` is missing"),
        (with_rule(params=[0.5]), "not a mapping"),
        (with_params(densty=0.5), "did you mean `density`"),
        (with_params(density=1.3), r"greater than 0 and at most 1\n.*got: +1.3\n.*rules\[0\].params.density"),
        (with_params(density=0), "greater than 0"),
        (with_params(weight=float("nan")), "a finite number"),
        (with_params(weight="0.5"), "a finite number"),
        (with_params(weight="1e-5"), "write 1.0e-5"),
        (with_params(weight=True), "a finite number"),
        (with_params(weight={"sum": 0.5}), "did you mean `sums`"),
        (with_params(weight={"base": 0.5}), "unknown key `base`"),
        (with_params(scale={"sums": 0.5}), "a finite number"),
        (with_params(normalize=1), "true or false"),
        (with_params(lines_beta={"sums": 0.5}), "a finite number"),
        (with_rule(operator="slerp", params={"t": 0.5}), r"number of experts\n.*expected: +1\n.*got: +2: sums, été"),
        (with_rule(operator="nuslerp", params={"weight": 1, "along": "row"}), "one of tensor, rows, columns"),
        (with_rule(operator="passthrough", params={"source": "sum"}), "`source` is not a source"),
        (with_components(0.5), "a mapping of experts to lists of finite numbers"),
        (with_components({"sums": 0.5}), "a mapping of experts to lists of finite numbers"),
        (with_components({"sums": [0.5, float("inf")]}), "a mapping of experts to lists of finite numbers"),
        (with_components({"sums": ["1e-5"]}), "a mapping of experts to lists of finite numbers"),
        (with_components({"sum": [0.5]}), "did you mean `sums`"),
        (with_components({"base": [0.5]}), "unknown key `base`"),
    ],
)
def test_what_is_wrong_is_named(wrong: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe(wrong)
    assert re.search(says, str(caught.value)), str(caught.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read[\s\S]*nowhere"):
        load_recipe(tmp_path / "nowhere.yaml")
    for name, text in [("a.yaml", "rules: ["), ("b.json", "{"), ("c.yaml", "text")]:
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
            load_recipe(tmp_path / name)


def read_setting(setting: Any, name: str) -> Any:
    """mergekit's rule: the first filter that is a part of the tensor's name."""
    if isinstance(setting, list):
        return next(entry["value"] for entry in setting if entry["filter"] in name)
    return setting


def read_mergekit(config: Mapping[str, Any], name: str, model: str | None, param: str) -> Any:
    layer, slices = layer_of(name), config["slices"]
    if layer is None:
        entry = slices[0] if "embed" in name else slices[-1]
    else:
        entry = next(entry for entry in slices if layer < entry["sources"][0]["layer_range"][1])
    if model is not None:
        source = next(source for source in entry["sources"] if source["model"] == model)
        return read_setting(source["parameters"][param], name)
    return read_setting((config["parameters"] | entry.get("parameters", {}))[param], name)


@pytest.mark.parametrize(
    ("operator", "unsaid"),
    [
        ("linear", ("lines_alpha", "lines_beta")),
        ("task_arithmetic", ()),
        ("ties", ("consensus", "pick", "trim")),
        ("breadcrumbs", ()),
        ("breadcrumbs_ties", ()),
    ],
)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_mergekit_reads_every_tensor_s_parameters(operator: str, unsaid: tuple[str, ...], data: st.DataObject) -> None:
    recipe, spec = data.draw(recipes(rules_of(operator, without=unsaid))), OPERATOR_SPECS[operator]
    config = to_mergekit(recipe, STRUCTURE, PATHS, {"sums": "org/base"})
    assert config is not None
    config = yaml.safe_load(yaml.safe_dump(config))
    find_rule, models = rule_finder(recipe), PATHS | {"sums": "org/base+/experts/sums"}
    if not recipe.rules:
        spec = OPERATOR_SPECS["task_arithmetic"]
    assert (config["merge_method"], config["base_model"], config["out_dtype"]) == (spec.name, "org/base", recipe.dtype)
    bare = {"base": 1.0} if spec.name == "linear" else 0.0
    for name in NAMES:
        rule = find_rule(name) or Rule(match="", operator=spec.name, params={"weight": bare})
        said = [param for param in spec.params if param.name not in unsaid and param not in DEPTH_PROFILE]
        for param in said if find_rule(name) else spec.params[:1]:
            if param.is_per_source:
                takers = tuple(s for s in SOURCES if s != "base" or param.kind is ParamKind.SOURCE)
                for source, value in spec.per_source(rule, param.name, takers).items():
                    assert read_mergekit(config, name, models[source], param.name) == value
            elif param.name == "scale":
                factor = spec.depth_factor(rule, None if (layer := layer_of(name)) is None else layer / 3)
                assert read_mergekit(config, name, None, "lambda") == spec.scalar(rule, "scale") * factor
            else:
                assert read_mergekit(config, name, None, param.name) == spec.scalar(rule, param.name)


def test_layers_that_are_merged_alike_make_a_slice() -> None:
    bands = tuple(
        Rule(match=rf"model\.layers\.[{layers}]\.mlp\..*", operator="task_arithmetic", params={"weight": weight})
        for layers, weight in [("01", 0.2), ("23", 0.4)]
    )
    config = to_mergekit(Recipe(base="base", sources=SOURCES, rules=bands), STRUCTURE, PATHS)
    assert config is not None
    assert [entry["sources"][0]["layer_range"] for entry in config["slices"]] == [[0, 2], [2, 4]]
    weight = config["slices"][0]["sources"][1]["parameters"]["weight"]
    assert {"filter": ".mlp.", "value": 0.2} in weight
    assert {"filter": "lm_head.weight", "value": 0.0} in weight


def test_a_depth_profile_is_mergekit_s_lambda() -> None:
    params = {"weight": 0.5, "scale": 2.0, "lines_alpha": 0.25, "lines_beta": 0.75}
    rule = Rule(match=".*", operator="task_arithmetic", params=params)
    config = to_mergekit(Recipe(base="base", sources=SOURCES, rules=(rule,)), STRUCTURE, PATHS)
    assert config is not None
    read = {name: read_mergekit(config, name, None, "lambda") for name in NAMES}
    for layer in range(4):
        assert read[f"model.layers.{layer}.mlp.up_proj.weight"] == 0.5 + 0.5 * layer
    assert {read[name] for name in NAMES if layer_of(name) is None} == {0.5}


def recipe_of(operator: str, match: str = ".*", **params: Any) -> Recipe:
    return Recipe(base="base", sources=SOURCES, rules=(Rule(match=match, operator=operator, params=params),))


def test_filters_say_what_a_matched_tensor_is_told_and_the_others_are_not() -> None:
    for operator, param, kept in [("ram", "epsilon", 1e30), ("ramplus", "epsilon", 1e30)]:
        config = to_mergekit(recipe_of(operator, r".*\.mlp\..*", epsilon=0.5), STRUCTURE, PATHS)
        assert config is not None
        for name in NAMES:
            assert read_mergekit(config, name, None, param) == (0.5 if ".mlp." in name else kept)


def test_a_choice_may_be_two_flags() -> None:
    config = to_mergekit(recipe_of("nuslerp", weight=0.5, along="columns"), STRUCTURE, PATHS)
    assert config is not None
    assert config["parameters"] == {"nuslerp_flatten": False, "nuslerp_row_wise": True}


def test_layers_that_are_passed_through_are_slices_of_one_model() -> None:
    touched = {"sums": frozenset(NAMES), "été": frozenset(n for n in NAMES if "mlp" in n)}
    structure = Structure(tensors=STRUCTURE.tensors, touched=touched, hashes=SOURCES, tied=False)
    swapped = [(r"model\.layers\.[01]\..*|.*embed.*", "sums"), (r".*\.2\.mlp\..*", "été"), (r"lm_head.*", "base")]
    rules = [Rule(match=match, operator="passthrough", params={"source": source}) for match, source in swapped]
    recipe = Recipe(base="base", sources=SOURCES, rules=(*rules, replace(rules[-1], match=".*")))
    config = to_mergekit(recipe, structure, PATHS)
    assert config is not None
    assert [[(s["model"], s["layer_range"]) for s in entry["sources"]] for entry in config["slices"]] == [
        [(PATHS["sums"], [0, 2])],
        [(PATHS["été"], [2, 3])],  # what is not its own there is the base's
        [(PATHS["base"], [3, 4])],
    ]
    torn = replace(recipe, rules=(replace(rules[0], match=r".*\.1\.mlp\..*"), rules[-1]))
    assert to_mergekit(torn, structure, PATHS) is None
    assert "layer 1 is of several sources" in (why_not_mergekit(torn, structure, PATHS) or "")


@pytest.mark.parametrize(
    ("operator", "params", "why"),
    [
        ("linear", {"weight": 1.0, "lines_beta": 0.5}, "linear has no lambda"),
        ("passthrough", {"source": "sums", "scale": 2.0, "lines_alpha": 0.5}, "passthrough has no lambda"),
        ("ties", {"weight": 1.0, "trim": "model"}, "ties has no trim `model`"),
        ("nuslerp", {"weight": 1.0, "of": "weights"}, "nuslerp has no of `weights`"),
        ("karcher", {}, "karcher steps by angles"),
        ("multislerp", {"weight": 1.0}, "multislerp multiplies by lengths"),
        ("model_stock", {"scale": 1.5}, "model_stock has no scale"),
        ("model_stock", {"along": "rows"}, "model_stock has no along `rows`"),
        ("dare_ties", {"weight": 1.0, "density": 0.5}, "dare_ties draws random masks of its own"),
        ("sce", {}, "sce weighs experts alike"),
        ("tsv_m", {"weight": 1.0}, "no method that makes the tensors of `tsv_m`"),
    ],
)
def test_what_a_rule_says_beyond_mergekit_has_a_reason(operator: str, params: dict[str, Any], why: str) -> None:
    recipe = parse_recipe(recipe_of(operator, **params).to_json())
    assert to_mergekit(recipe, STRUCTURE, PATHS) is None
    assert why in (why_not_mergekit(recipe, STRUCTURE, PATHS) or "")


def test_methods_that_cannot_leave_a_tensor_alone_match_all_that_is_changed() -> None:
    touched = {"sums": frozenset(NAMES), "été": frozenset[str]()}
    structure = Structure(tensors=STRUCTURE.tensors, touched=touched, hashes=SOURCES, tied=False)
    for operator, told in {"nuslerp": {"weight": 1.0}, "model_stock": {}}.items():
        assert to_mergekit(recipe_of(operator, **told), structure, PATHS) is not None
        part = recipe_of(operator, r".*mlp.*", **told)
        assert to_mergekit(part, structure, PATHS) is None
        assert "no rule matches `lm_head.weight`" in (why_not_mergekit(part, structure, PATHS) or "")
        assert to_mergekit(part, STRUCTURE, PATHS) is not None  # whose experts change nothing


@pytest.mark.parametrize(
    ("operators", "paths", "why"),
    [
        (("ties", "linear"), PATHS, "one method per file, and the recipe uses linear, ties"),
        (("ties",), PATHS | {"sums": "/experts/ete"}, "two sources have the same"),
        (("ties",), PATHS | {"sums": "/experts/a+b"}, "adapter's mark"),
    ],
)
def test_what_mergekit_cannot_express_has_a_reason(operators: tuple[str, ...], paths: dict[str, str], why: str) -> None:
    rules = tuple(Rule(match=".*", operator=operator, params={"weight": 0.5}) for operator in operators)
    recipe = Recipe(base="base", sources=SOURCES, rules=rules)
    assert to_mergekit(recipe, STRUCTURE, paths) is None
    assert why in (why_not_mergekit(recipe, STRUCTURE, paths) or "")
    headless = Structure(tensors={"w": INFO}, touched={}, hashes=SOURCES, tied=False)
    assert "layers" in (why_not_mergekit(Recipe(base="base", sources=SOURCES, rules=()), headless, PATHS) or "")
