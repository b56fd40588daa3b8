"""What 40 architectures call their tensors, and what is made of each name (tests/golden/names/make_names.py)."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossbreed.sources import naming
from crossbreed.sources.naming import in_layer, layer_of, layers_pattern, module_of, names_pattern, place_of

GOLDEN = Path(__file__).parents[1] / "golden/names"
ARCHITECTURES: dict[str, dict[str, list[int]]] = json.loads((GOLDEN / "names.json").read_text())
ANSWERS = GOLDEN / "answers.tsv"


def answers() -> Iterator[str]:
    """Yields a line for each tensor: architecture, name, layer, module type, and what else is true of it."""
    for architecture, shapes in ARCHITECTURES.items():
        for name, shape in shapes.items():
            true_of_it = {
                "projection": naming.is_projection(name, shape),
                "before-layers": naming.is_before_layers(name),
                "token-rows": naming.has_token_rows(name),
                "input-embedding": naming.is_input_embedding(name),
                "may-be-tied": naming.may_be_tied(name),
                "may-be-head": naming.may_be_head(name),
                "derived": naming.is_derived(name),
            }
            layer = layer_of(name)
            flags = " ".join(flag for flag, is_true in true_of_it.items() if is_true)
            yield "\t".join([architecture, name, "-" if layer is None else str(layer), module_of(name), flags or "-"])


def test_names_mean_what_they_meant() -> None:
    assert list(answers()) == ANSWERS.read_text().splitlines(), "if meant: python tests/sources/test_naming.py"


@pytest.mark.parametrize(
    ("name", "layer", "module"),
    [
        ("model.embed_tokens.weight", None, naming.ModuleType.EMBEDDING),
        ("model.layers.11.self_attn.q_proj.weight", 11, naming.ModuleType.ATTENTION),
        ("model.layers.0.self_attn.q_norm.weight", 0, naming.ModuleType.NORM),
        ("model.layers.2.mlp.experts.3.down_proj.weight", 2, naming.ModuleType.MLP),
        ("model.layers.2.post_attention_layernorm.weight", 2, naming.ModuleType.NORM),
        ("transformer.h.5.mlp.c_fc.weight", 5, naming.ModuleType.MLP),
        ("h.5.attn.c_attn.weight", 5, naming.ModuleType.ATTENTION),
        ("model.norm.weight", None, naming.ModuleType.NORM),
        ("lm_head.weight", None, naming.ModuleType.EMBEDDING),
        ("lone.patch.weight", None, naming.ModuleType.OTHER),
        ("vision.patch.weight", None, naming.ModuleType.VISION),
        ("model.visual.blocks.3.attn.qkv.weight", None, naming.ModuleType.VISION),
        ("model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias", None, naming.ModuleType.VISION),
        ("model.multi_modal_projector.linear_1.weight", None, naming.ModuleType.VISION),
        ("model.audio_tower.layers.1.fc1.weight", None, naming.ModuleType.AUDIO),
        ("mtp.layers.0.mlp.up_proj.weight", None, naming.ModuleType.DRAFT),
        ("model.encoder.layers.0.self_attn.q_proj.weight", None, naming.ModuleType.ENCODER),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", None, naming.ModuleType.ENCODER),
        ("model.decoder.layers.2.self_attn.q_proj.weight", 2, naming.ModuleType.ATTENTION),
        ("transformer.encoder.layers.2.self_attention.dense.weight", 2, naming.ModuleType.ATTENTION),
        ("bert.encoder.layer.3.intermediate.dense.weight", 3, naming.ModuleType.MLP),
        ("model.language_model.layers.1.mlp.vision_mlp.up_proj.weight", 1, naming.ModuleType.MLP),
        ("model.layers.1.block_sparse_moe.gate.weight", 1, naming.ModuleType.ROUTER),
        ("model.layers.1.mlp.gate.weight", 1, naming.ModuleType.ROUTER),
        ("model.layers.1.mlp.gate_proj.weight", 1, naming.ModuleType.MLP),
        ("backbone.layers.1.mixer.q_proj.weight", 1, naming.ModuleType.ATTENTION),
        ("backbone.layers.1.mixer.in_proj.weight", 1, naming.ModuleType.MIXER),
    ],
)
def test_a_name_tells_layer_and_module(name: str, layer: int | None, module: naming.ModuleType) -> None:
    assert (layer_of(name), module_of(name)) == (layer, module)


ALL_NAMES = sorted({name for shapes in ARCHITECTURES.values() for name in shapes})
IN_LAYERS = [name for name in ALL_NAMES if layer_of(name) is not None]


@given(st.sampled_from(IN_LAYERS), st.integers(0, 200))
def test_a_tensor_of_another_layer_differs_in_its_number_alone(name: str, number: int) -> None:
    moved = in_layer(name, number)
    assert layer_of(moved) == number
    assert (place_of(moved).stack, place_of(moved).within) == (place_of(name).stack, place_of(name).within)
    assert in_layer(moved, place_of(name).layer or 0) == name


@given(st.sets(st.integers(0, 30), min_size=1, max_size=4), st.sampled_from(sorted(ARCHITECTURES)))
def test_the_pattern_of_layers_matches_their_tensors_and_no_others(layers: set[int], architecture: str) -> None:
    names = ARCHITECTURES[architecture]
    pattern = re.compile(layers_pattern(layers, names))
    assert all(bool(pattern.fullmatch(name)) == (layer_of(name) in layers) for name in names)


TYPES: dict[str, dict[str, list[str]]] = json.loads((GOLDEN / "types.json").read_text())
UNPLACED = {"input_residual", "per_layer_input_gate.weight", "per_layer_projection.weight"}
"""What of decoder layers is of no module type: scales of residuals, inputs of single layers."""


@pytest.mark.parametrize("architecture", TYPES)
def test_names_of_all_language_models_have_the_reviewed_types(architecture: str) -> None:
    for said, names in TYPES[architecture].items():
        for name in names:
            place = place_of(name)
            assert f"{'outside' if place.layer is None else 'layer'}: {place.module}" == said, name
            assert said != "layer: other" or place.within in UNPLACED


def test_the_layers_of_nearly_all_language_models_are_found() -> None:
    without = {kind for kind, types in TYPES.items() if not any(said.startswith("layer") for said in types)}
    assert len(TYPES) > 150
    assert without == {"xlm"}


def test_layers_that_only_draft_are_not_counted() -> None:
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(4)]
    assert naming.count_layers([*names, "model.layers.3.eh_proj.weight"]) == 3


ANY_NAMES = st.text("a1.*|[^", max_size=4)


@given(st.sets(ANY_NAMES, min_size=1, max_size=6), ANY_NAMES)
def test_the_pattern_of_names_matches_them_and_no_others(names: set[str], other: str) -> None:
    pattern = re.compile(names_pattern(names))
    assert all(pattern.fullmatch(name) for name in names)
    assert bool(pattern.fullmatch(other)) == (other in names)


@pytest.mark.parametrize(
    ("name", "is_tied", "is_head", "has_rows"),
    [
        ("model.embed_tokens.weight", True, True, True),
        ("wte.weight", True, True, True),
        ("gpt_neox.embed_in.weight", False, False, True),
        ("embed_out.weight", False, True, True),
        ("lm_head.weight", False, True, True),
        ("language_model.lm_head.weight", False, True, True),
        ("lm_head.bias", False, True, True),
        ("weight", False, False, False),
        ("model.embed_tokens_per_layer.weight", False, False, True),
        ("transformer.word_embeddings.weight", True, True, True),
        ("backbone.embeddings.weight", True, True, True),
        ("rwkv.embeddings.weight", True, True, True),
        ("head.weight", False, True, True),
        ("output.weight", False, True, True),
        ("model.tok_embeddings.weight", True, True, True),
        ("bert.encoder.layer.0.output.dense.weight", False, False, False),
        ("bert.embeddings.position_embeddings.weight", False, False, False),
        ("vision_tower.embeddings.weight", False, False, False),
        ("transformer.h.3.attention.output.weight", False, False, False),
    ],
)
def test_the_ends_of_a_model_are_told_by_their_modules(name: str, is_tied: bool, is_head: bool, has_rows: bool) -> None:
    assert (naming.may_be_tied(name), naming.may_be_head(name), naming.has_token_rows(name)) == (
        is_tied,
        is_head,
        has_rows,
    )


if __name__ == "__main__":
    ANSWERS.write_text("".join(f"{line}\n" for line in answers()))
