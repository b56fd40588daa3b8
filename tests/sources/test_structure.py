import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossbreed.sources.structure import ModuleType, Structure, TensorInfo, layer_of, module_of, names_pattern


@pytest.mark.parametrize(
    ("name", "layer", "module"),
    [
        ("model.embed_tokens.weight", None, ModuleType.EMBEDDING),
        ("model.layers.11.self_attn.q_proj.weight", 11, ModuleType.ATTENTION),
        ("model.layers.0.self_attn.q_norm.weight", 0, ModuleType.NORM),
        ("model.layers.2.mlp.experts.3.down_proj.weight", 2, ModuleType.MLP),
        ("model.layers.2.post_attention_layernorm.weight", 2, ModuleType.NORM),
        ("transformer.h.5.mlp.c_fc.weight", 5, ModuleType.MLP),
        ("h.5.attn.c_attn.weight", 5, ModuleType.ATTENTION),
        ("model.norm.weight", None, ModuleType.NORM),
        ("lm_head.weight", None, ModuleType.EMBEDDING),
        ("vision.patch.weight", None, ModuleType.OTHER),
    ],
)
def test_a_name_tells_layer_and_module(name: str, layer: int | None, module: ModuleType) -> None:
    assert (layer_of(name), module_of(name)) == (layer, module)


NAMES = st.text("a1.*|[^", max_size=4)


@given(st.sets(NAMES, min_size=1, max_size=6), NAMES)
def test_a_pattern_matches_its_names_and_no_other(names: set[str], other: str) -> None:
    pattern = re.compile(names_pattern(names))
    assert all(pattern.fullmatch(name) for name in names)
    assert bool(pattern.fullmatch(other)) == (other in names)


def test_a_structure_counts_layers_and_names_experts() -> None:
    info = TensorInfo(shape=(1,), dtype="float32")
    structure = Structure(
        tensors={"model.layers.0.mlp.w": info, "model.layers.12.mlp.w": info},
        touched={"b": frozenset(), "a": frozenset()},
        hashes={},
        tied=False,
    )
    assert (structure.num_layers, structure.experts) == (13, ("b", "a"))


def test_structure_needs_no_torch_and_weights_say_what_they_need() -> None:
    program = """
import sys
sys.modules["torch"] = None
from crossbreed.sources import Structure
try:
    from crossbreed.sources import open_sources
except ImportError as error:
    print(type(error).__name__, error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("MissingExtra this needs the package `torch`")
    assert "crossbreed[torch]" in ran.stdout
