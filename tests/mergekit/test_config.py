"""mergekit's YAML as values: every form that people write; what is wrong or cannot be done is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crossbreed.errors import InputError
from crossbreed.mergekit import METHODS, MergeConfig, ModelReference, parse_config, read_config
from crossbreed.mergekit.config import Conditional, TokenRow

BASE, A, B = (ModelReference(model=name) for name in ("base", "a", "b"))
TIES = """
merge_method: ties
base_model: base
models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.2, density: 0.3}}]
"""


def parse(text: str, **changes: Any) -> MergeConfig:
    return parse_config(yaml.safe_load(text) | changes)


def settings_of(value: Any, method: str = "linear", name: str = "weight") -> tuple[Conditional, ...]:
    config = parse_config({"merge_method": method, "models": [{"model": "a"}], "parameters": {name: value}})
    return config.settings[name]


def test_models_are_one_slice_of_all_layers_with_an_unlisted_base_last() -> None:
    (entry,) = parse(TIES).slices
    assert entry.models == (A, B, BASE)
    assert {source.layers for source in entry.inputs} == {None}


def test_a_listed_base_stays_where_it_is() -> None:
    models = [{"model": "a"}, {"model": "base"}, {"model": "b"}]
    (entry,) = parse(TIES, models=models, parameters={"weight": 1}).slices
    assert entry.models == (A, BASE, B)


def test_slices_have_layers_parameters_and_a_base_of_their_own() -> None:
    config = parse_config(
        yaml.safe_load("""
merge_method: slerp
base_model: base
slices:
  - sources: [{model: base, layer_range: [0, 4]}, {model: a, layer_range: [2, 6], parameters: {t: 1}}]
    parameters: {t: [0, 1]}
  - {base_model: b, sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]}
parameters: {t: 0.5}
""")
    )
    first, second = config.slices
    assert [source.layers for source in first.inputs] == [range(4), range(2, 6)]
    assert first.settings["t"][0].anchors == (0.0, 1.0)
    assert (first.base, second.base) == (BASE, B)
    assert config.models == (BASE, B, A), "whoever lends configuration and tokenizer comes first"


@pytest.mark.parametrize(
    ("written", "model", "lora"),
    [
        ("org/name@main", "org/name@main", ""),
        ("/m/x+/l/y", "/m/x", "/l/y"),
        ({"model": "m", "lora": "l"}, "m", "l"),
        ({"model": {"path": "org/m", "revision": "v1"}, "lora": {"path": "l"}}, "org/m@v1", "l"),
    ],
)
def test_models_are_named_in_four_ways(written: object, model: str, lora: str) -> None:
    config = parse_config({"merge_method": "passthrough", "models": [{"model": written}]})
    assert config.models == (ModelReference(model=model, lora=lora),)


@pytest.mark.parametrize(
    "value", [0.25, "2.5e-1", [0.25], {"value": 0.25}, [{"value": 0.25}], [{"filter": "*", "value": 0.25}]]
)
def test_a_number_may_be_written_in_six_ways(value: object) -> None:
    assert settings_of(value) == (Conditional(filter=None, anchors=(0.25,)),)


def test_filters_keep_their_order() -> None:
    found = settings_of([{"filter": "mlp", "value": [0, 1]}, {"filter": None, "value": 2}])
    assert [(one.filter, one.anchors) for one in found] == [("mlp", (0.0, 1.0)), (None, (2.0,))]


@pytest.mark.parametrize("value", [True, 1, 1.0])
def test_a_flag_may_be_a_number(value: object) -> None:
    (found,) = settings_of(value, name="normalize")
    assert found.anchors == (True,)
    assert isinstance(found.anchors[0], bool)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6))
def test_a_gradient_meets_its_anchors(anchors: list[float]) -> None:
    gradient = Conditional(filter=None, anchors=tuple(anchors))
    for index, anchor in enumerate(anchors):
        at = index / (len(anchors) - 1) if len(anchors) > 1 else 0.7
        assert gradient.at(at) == pytest.approx(anchor, abs=1e-12)


def test_a_gradient_of_flags_steps() -> None:
    flags = Conditional(filter=None, anchors=(True, False))
    assert [flags.at(t) for t in (0.0, 0.99, 1.0)] == [True, True, False]


def test_a_tokenizer_is_chosen_shortly_or_at_length() -> None:
    assert parse(TIES, tokenizer_source="union").tokenizer.source == "union"  # type: ignore[union-attr]
    long = {
        "source": "b",
        "pad_to_multiple_of": 64,
        "tokens": {
            "<x>": {"source": "a", "force": True},
            "<y>": {"source": {"kind": "zero"}},
            "<n>": {"source": None},
            "<z>": {"source": {"kind": "model_token", "model": "a", "token_id": 3}},
        },
    }
    found = parse(TIES, tokenizer=long).tokenizer
    assert found is not None
    assert (found.source, found.pad_to_multiple_of) == (B, 64)
    assert found.tokens == {
        "<x>": TokenRow(model=A, force=True),
        "<y>": TokenRow(is_zero=True),
        "<n>": TokenRow(force=False),
        "<z>": TokenRow(model=A, token=3),
    }


def test_parameters_that_nobody_asks_for_are_noted() -> None:
    config = parse(TIES, parameters={"t": 0.5, "gamma": 0.1})
    assert config.idle == ("gamma", "t")
    models = [{"model": "a", "parameters": {"normalize": False, "weight": 1}}]
    assert parse(TIES, models=models).idle == ("normalize",), "a model has no say in what is the merge's"


@pytest.mark.parametrize("density", [0.0, 1.0, 1.5])
def test_all_or_nothing_of_a_delta_may_be_kept(density: float) -> None:
    assert parse(TIES, parameters={"density": density}).settings["density"][0].anchors == (density,)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"merge_method": "tie"}, ["`ties`"]),
        ({"modules": {"text": {}, "vision": {}}, "models": None}, ["several modules", "text, vision"]),
        ({"modules": {"default": {"models": []}}}, ["given twice"]),
        ({"slices": []}, ["both"]),
        ({"models": None}, ["both or neither"]),
        ({"models": []}, ["models"]),
        ({"models": [{"model": "a"}, {"model": "a"}]}, ["twice", "a"]),
        ({"models": [{"model": "a+b+c"}]}, ["a+b+c", "MODEL+ADAPTER"]),
        ({"models": [{"model": 7}]}, ["int 7"]),
        ({"base_model": None}, ["ties needs a base"]),
        ({"parameters": {"density": "high"}}, ["'high'", "a finite number"]),
        ({"parameters": {"density": True}}, ["True", "a finite number"]),
        ({"parameters": {"density": None}}, ["None"]),
        ({"parameters": {"density": -1}}, ["`density`", "at least 0", "-1"]),
        ({"parameters": {"density": [{"filter": "mlp", "value": [0.5, -0.1]}, {"value": 1}]}}, ["at least 0", "-0.1"]),
        ({"merge_method": "della", "parameters": {"epsilon": -0.1}}, ["`epsilon`", "at least 0"]),
        ({"merge_method": "breadcrumbs", "parameters": {"gamma": -0.1}}, ["`gamma`", "at least 0"]),
        ({"merge_method": "sce", "parameters": {"select_topk": -0.1}}, ["`select_topk`", "at least 0"]),
        ({"merge_method": "ram", "parameters": {"epsilon": -0.1}}, ["`epsilon`", "at least 0"]),
        ({"parameters": {"density": []}}, ["a value"]),
        ({"parameters": {"density": [0.5, {"filter": "mlp", "value": 1}]}}, ["density"]),
        ({"parameters": {"density": [{"filter": 3, "value": 1}]}}, ["filter", '"3"']),
        ({"parameters": {"normalize": "yes please"}}, ["true or false"]),
        ({"dtype": "bf16"}, ["bf16", "`bfloat16`"]),
        ({"out_dtype": "int64"}, ["int64"]),
        ({"tokenizer_source": "base", "tokenizer": {}}, ["one of"]),
        ({"tokenizer": {"tokens": {"<x>": {"source": {"kind": "mean"}}}}}, ["zero or model_token", "mean"]),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, ["pad_to_multiple_of"]),
        ({"chat_template": "chatlm"}, ["chatlm", "`chatml`", "Jinja"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_named(changes: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        parse(TIES, **changes)
    assert all(name in str(caught.value) for name in names), str(caught.value)


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ({"model": "a", "layer_range": [2, 2]}, ["[2, 2]"]),
        ({"model": "a", "layer_range": "0-2"}, ["[FIRST, LAST + 1]"]),
        ({"model": "a"}, ["layer_range", "missing"]),
    ],
    ids=str,
)
def test_layers_are_a_range(entry: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        parse_config({"merge_method": "passthrough", "slices": [{"sources": [entry]}]})
    assert all(name in str(caught.value) for name in names)


def test_a_slice_without_the_base_is_told_to_list_it() -> None:
    slices = [{"sources": [{"model": "a", "layer_range": [0, 2], "parameters": {"weight": 1}}]}]
    with pytest.raises(InputError, match="list the base among the sources"):
        parse_config({"merge_method": "ties", "base_model": "base", "slices": slices})


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"name": "my-merge"}, ""),
        ({"residual_alpha": 0.5}, ""),
        ({"parameters": {"dtype": "float16"}}, "at the top"),
        ({"parameters": {"allow_negative_weights": True}}, ""),
        ({"parameters": {"int_space": True}}, ""),
        ({"parameters": {"densty": 0.5}}, "did you mean `density`?"),
        ({"models": [{"model": "a", "weight": 0.5, "parameters": {"weight": 1}}]}, "inside `parameters`"),
        ({"models": [{"model": "a", "revision": "v2", "parameters": {"weight": 1}}]}, "write MODEL@REVISION"),
        ({"merge_methd": "ties"}, "did you mean `merge_method`?"),
        ({"tokenizer": {"sources": "union"}}, "did you mean `source`?"),
        ({"models": None, "slices": [{"sources": [{"model": m, "layer_range": [0, 1], "parameters": {"weight": 1}}
          for m in ("base", "a")], "merge_method": "slerp"}]}, "at the top"),
    ],
    ids=str,
)  # fmt: skip
def test_what_mergekit_reads_over_is_noted(changes: dict[str, Any], fix: str) -> None:
    (found,) = parse(TIES, **changes).ignored
    assert f"`{found.key}`" in str(found)
    assert fix in found.fix
    assert bool(found.fix) == bool(fix)
    assert found.is_slip == ("did you mean" in fix or "inside" in fix)


def test_a_module_is_a_level_of_parameters_and_its_own_normal_form() -> None:
    content = yaml.safe_load(TIES)
    models = content.pop("models")
    density = [{"filter": "mlp", "value": 0.5}]
    module = {"models": models, "parameters": {"density": density, "lambda": 0.7}}
    found = parse_config({**content, "parameters": {"density": 0.9}, "modules": {"default": module}})
    assert found.slices == parse(TIES).slices
    assert [(one.filter, one.anchors) for one in found.settings["density"]] == [("mlp", (0.5,)), (None, (0.9,))]
    assert found.settings["lambda"][0].anchors == (0.7,)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_a_method_gets_as_many_models_as_it_takes(method: Any) -> None:
    def config(count: int) -> dict[str, Any]:
        models = [{"model": f"m{number}", "parameters": {"weight": 1}} for number in range(count)]
        base = {"base_model": "base"} if method.base == "required" else {}
        return {"merge_method": method.name, "models": models, "parameters": {"t": 0.5}, **base}

    least = max(1, method.least)
    assert len(parse_config(config(least)).slices[0].inputs) == least + (method.base == "required")
    if method.most is not None:
        with pytest.raises(InputError, match=f"{method.name} needs"):
            parse_config(config(method.most + 1))


def test_a_whole_number_has_no_gradient() -> None:
    assert settings_of("4", method="karcher", name="max_iter")[0].anchors == (4.0,)
    for value, wanted in (([2, 5], "one whole number"), (2.5, "a whole number")):
        with pytest.raises(InputError, match=wanted):
            settings_of(value, method="karcher", name="max_iter")


@pytest.mark.parametrize(
    ("text", "tool"),
    [
        ("{base_model: x, gate_mode: hidden, experts: []}", "mergekit-moe"),
        ("{genome: {}, tasks: []}", "mergekit-evolve"),
        (f"{TIES}\n---\n{TIES}", "mergekit-multi"),
        ("{merge_metod: ties, models: []}", r"(?s)unknown key `merge_metod`.*did you mean `merge_method`"),
        ("{slices: [], dtype: float32}", "`merge_method` is missing"),
    ],
)
def test_files_of_other_tools_or_methods_are_refused_by_name(text: str, tool: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text(text)
    with pytest.raises(InputError, match=tool):
        read_config(path)


@pytest.mark.parametrize("text", ["{schema: 1, rules: []}", "[1, 2]", ""])
def test_what_is_not_mergekits_is_left_to_others(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text(text)
    assert read_config(path) is None
    path.unlink()
    assert read_config(path) is None


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text(TIES)
    assert read_config(path) == parse(TIES)
