"""What each tensor of a merge is made from: whose value counts, how deep a layer lies, what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from crossbreed.errors import InputError
from crossbreed.mergekit import MergePlan, ModelReference, OutputTensor, parse_config, plan_merge
from crossbreed.sources import Structure, TensorInfo

BASE, A, B = (ModelReference(model=name) for name in ("base", "a", "b"))
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def structure(num_layers: int = 4, *, tied: bool = True, vocabulary: int = 8, width: int = 4) -> Structure:
    square, rows = (
        TensorInfo(shape=(width, width), dtype="bfloat16"),
        TensorInfo(shape=(vocabulary, width), dtype="bfloat16"),
    )
    names = [f"model.layers.{n}.{m}.weight" for n in range(num_layers) for m in ("mlp.up_proj", "self_attn.q_proj")]
    heads = {EMBEDDING: rows, NORM: square} | ({} if tied else {HEAD: rows})
    return Structure(
        tensors=dict(sorted((dict.fromkeys(names, square) | heads).items())), touched={}, hashes={}, tied=tied
    )


def plan(text: str, **structures: Structure) -> MergePlan:
    config = parse_config(yaml.safe_load(text))
    return plan_merge(config, {m: structures.get(m.model, structure()) for m in config.models})


def tensors(text: str, **structures: Structure) -> dict[str, OutputTensor]:
    return {tensor.name: tensor for tensor in plan(text, **structures).tensors}


def of_model(tensor: OutputTensor, model: ModelReference, name: str = "weight") -> Any:
    return next(one for one in tensor.inputs if one.model == model).parameters.get(name)


def up(layer: int) -> str:
    return f"model.layers.{layer}.mlp.up_proj.weight"


def test_every_tensor_of_every_layer_is_planned_in_order() -> None:
    found = plan("{merge_method: linear, models: [{model: a}, {model: b}], parameters: {weight: 1}}")
    assert [tensor.name for tensor in found.tensors] == list(structure().tensors)
    assert [one.tensor for one in found.tensors[0].inputs] == [found.tensors[0].name] * 2
    assert {tensor.name for tensor in found.tensors if tensor.has_token_rows} == {EMBEDDING}
    assert found.donor == A
    assert found.tied


LEVELS = """
merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: [{filter: up_proj, value: 1}]}}
      - {model: b, layer_range: [0, 2]}
    parameters: {weight: [{filter: q_proj, value: 2}]}
parameters: {weight: [{filter: embed, value: 3}, {filter: null, value: 4}], normalize: false}
"""


def test_a_source_goes_before_its_slice_and_that_before_the_configuration() -> None:
    found = tensors(LEVELS)
    attention = "model.layers.1.self_attn.q_proj.weight"
    assert [of_model(found[up(1)], model) for model in (A, B)] == [1.0, 4.0]
    assert [of_model(found[attention], model) for model in (A, B)] == [2.0, 2.0]
    assert [of_model(found[name], A) for name in (EMBEDDING, NORM)] == [3.0, 4.0]
    assert {tensor.parameters["normalize"] for tensor in found.values()} == {False}


def test_the_first_filter_that_matches_counts() -> None:
    found = tensors("""
merge_method: linear
models: [{model: a}]
parameters: {weight: [{filter: layers.1., value: 1}, {filter: mlp, value: 2}, {filter: '*', value: 3}]}
""")
    assert [of_model(found[up(layer)], A) for layer in range(3)] == [2.0, 1.0, 2.0]
    assert of_model(found[NORM], A) == 3.0


def test_a_gradient_runs_over_the_layers_of_its_slice_and_starts_outside_of_them() -> None:
    found = tensors(
        "{merge_method: linear, models: [{model: a, parameters: {weight: [0, 3]}}], parameters: {normalize: false}}"
    )
    assert [of_model(found[up(layer)], A) for layer in range(4)] == pytest.approx([0, 1, 2, 3])
    assert [of_model(found[name], A) for name in (EMBEDDING, NORM)] == [0.0, 0.0]


def test_a_slice_of_one_layer_is_at_the_end_of_its_gradient() -> None:
    found = tensors("""
merge_method: linear
slices: [{sources: [{model: a, layer_range: [0, 3]}]}, {sources: [{model: b, layer_range: [3, 4]}]}]
parameters: {weight: [0, 1], normalize: false}
""")
    assert [found[up(layer)].inputs[0].parameters["weight"] for layer in range(4)] == [0.0, 0.5, 1.0, 1.0]


STACK = """
merge_method: passthrough
slices:
  - {sources: [{model: a, layer_range: [0, 3]}]}
  - {sources: [{model: b, layer_range: [1, 4], parameters: {scale: [{filter: layers.1., value: 0.5}]}}]}
"""


def test_layers_are_stacked_and_ends_come_from_the_ends() -> None:
    found = plan(STACK, b=structure(tied=False))
    by_name = {tensor.name: tensor for tensor in found.tensors}
    assert found.layers == ((A, 0), (A, 1), (A, 2), (B, 1), (B, 2), (B, 3))
    (deepest,) = by_name[up(5)].inputs
    assert (deepest.model, deepest.tensor) == (B, up(3))
    assert [by_name[name].inputs[0].model for name in (EMBEDDING, NORM, HEAD)] == [A, B, B]
    assert not found.tied


def test_a_model_is_filtered_by_its_own_names_and_the_merge_by_the_merges() -> None:
    assert [one.inputs[0].parameters.get("scale") for name in (1, 3) for one in [tensors(STACK)[up(name)]]] == [
        None,
        0.5,
    ]
    found = tensors("""
merge_method: slerp
slices:
  - sources: [{model: a, layer_range: [0, 1]}, {model: base, layer_range: [3, 4]}]
  - sources: [{model: a, layer_range: [1, 2]}, {model: base, layer_range: [0, 1]}]
base_model: base
parameters: {t: [{filter: layers.0., value: 0.1}, {value: 0.9}]}
""")
    assert [found[up(layer)].parameters["t"] for layer in range(2)] == [0.1, 0.9]


def test_a_tied_model_lends_its_embedding_for_a_head() -> None:
    found = tensors(
        "{merge_method: linear, models: [{model: a, parameters: {weight: [{filter: lm_head, value: 1}, {value: 2}]}},"
        " {model: b, parameters: {weight: 1}}]}",
        b=structure(tied=False),
    )
    assert [one.tensor for one in found[HEAD].inputs] == [EMBEDDING, HEAD]
    assert [of_model(found[name], A) for name in (HEAD, EMBEDDING)] == [1.0, 2.0]


def test_only_deltas_have_a_base_and_it_needs_no_weight() -> None:
    models = "models: [{model: a, parameters: {weight: 1}}]"
    of_deltas = tensors(f"{{merge_method: ties, base_model: base, {models}}}")[NORM]
    assert of_deltas.base == BASE
    assert of_model(of_deltas, A, "density") == 1.0
    assert of_deltas.inputs[-1].parameters == {}
    ordinary = tensors(f"{{merge_method: linear, base_model: base, {models}, parameters: {{weight: 3}}}}")[NORM]
    assert (ordinary.base, of_model(ordinary, BASE)) == (None, 3.0)


NO_WEIGHT = "{merge_method: linear, base_model: base, models: [{model: a, parameters: {weight: 1}}]}"
NO_FILTER = "{merge_method: linear, models: [{model: a}], parameters: {weight: [{filter: mlp, value: 1}]}}"
NO_T = "{merge_method: nearswap, base_model: base, models: [{model: a}]}"
KARCHER = "{merge_method: karcher, models: [{model: a}, {model: b}]}"
ALIGNED = "{merge_method: karcher, tokenizer_source: union, models: [{model: a}, {model: b}]}"


def without(name: str) -> Structure:
    return replace(structure(), tensors={other: info for other, info in structure().tensors.items() if other != name})


@pytest.mark.parametrize(
    ("text", "b", "names"),
    [
        (NO_WEIGHT, structure(), ["`weight` of `base`"]),
        (NO_FILTER, structure(), ["`weight` of `a`", "self_attn.q_proj"]),
        (NO_T, structure(), ["`t` of the merge"]),
        (LEVELS, structure(1), ["`b` has no layer 1"]),
        (KARCHER, structure(3), ["a: 4", "b: 3"]),
        (KARCHER, structure(width=5), ["mlp.up_proj", "(5, 5)"]),
        (KARCHER, structure(vocabulary=9), ["(9, 4)", "tokenizer_source"]),
        (ALIGNED, structure(vocabulary=9, width=5), ["(5, 5)"]),
        (KARCHER, without(NORM), [f"`b` lacks `{NORM}`"]),
        (KARCHER, without(up(2)), [f"`b` lacks `{up(2)}`"]),
    ],
)
def test_what_does_not_fit_is_named(text: str, b: Structure, names: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        plan(text, b=b)
    assert all(name in str(caught.value) for name in names), str(caught.value)


def test_vocabularies_may_differ_where_they_will_be_aligned() -> None:
    assert tensors(ALIGNED, b=structure(vocabulary=9))[EMBEDDING].has_token_rows
