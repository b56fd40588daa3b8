import subprocess
import sys

from crossbreed.sources.structure import Structure, TensorInfo


def test_a_structure_counts_layers_and_names_experts() -> None:
    info = TensorInfo(shape=(1,), dtype="float32")
    structure = Structure(
        tensors={"model.layers.0.mlp.w": info, "model.layers.12.mlp.w": info},
        touched={"b": frozenset({"x"}), "a": frozenset({"x", "y"})},
        hashes={},
        tied=False,
    )
    assert (structure.num_layers, structure.experts) == (13, ("b", "a"))
    assert structure.touched_by_any == {"x", "y"}
    assert Structure(tensors={}, touched={}, hashes={}, tied=False).touched_by_any == frozenset()


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
