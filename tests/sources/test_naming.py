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
        ("vision.patch.weight", None, naming.ModuleType.OTHER),
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


@given(st.sets(st.integers(0, 30), min_size=1, max_size=4), st.sampled_from(ALL_NAMES), st.integers(0, 30))
def test_the_pattern_of_layers_matches_their_tensors_and_no_others(layers: set[int], name: str, number: int) -> None:
    moved = name if layer_of(name) is None else in_layer(name, number)
    assert bool(re.fullmatch(layers_pattern(layers), moved)) == (layer_of(moved) in layers)


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
        ("embed_out.weight", False, True, False),
        ("lm_head.weight", False, True, True),
        ("language_model.lm_head.weight", False, True, False),
        ("lm_head.bias", False, False, False),
        ("weight", False, False, False),
        ("model.embed_tokens_per_layer.weight", False, False, False),
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
