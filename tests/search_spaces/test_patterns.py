"""The patterns that groups get in 40 architectures: recorded journals decode to rules with the same patterns."""

import json
from pathlib import Path

import pytest

from crossbreed.search_spaces.groups import GroupsConfig, make_groups
from crossbreed.sources import ModuleType, Structure, TensorInfo, module_of

GOLDEN = Path(__file__).parents[1] / "golden/names"
ARCHITECTURES: dict[str, dict[str, list[int]]] = json.loads((GOLDEN / "names.json").read_text())
PATTERNS = GOLDEN / "patterns.json"
MODULES = (ModuleType.ATTENTION, ModuleType.MLP), (ModuleType.NORM, ModuleType.EMBEDDING, ModuleType.OTHER)


def structure_of(architecture: str) -> Structure:
    tensors = {n: TensorInfo(shape=tuple(s), dtype="float32") for n, s in ARCHITECTURES[architecture].items()}
    touched = {"all": frozenset(tensors), "some": frozenset(list(tensors)[::2])}
    return Structure(tensors=tensors, touched=touched, hashes={name: name for name in ("base", *touched)}, tied=False)


def patterns(architecture: str) -> list[dict[str, str]]:
    """Returns label -> pattern of bands, and of bands by module types."""
    structure = structure_of(architecture)
    present = {module_of(name) for name in structure.tensors}
    layers = min(2, structure.num_layers) or None
    wanted = [(), *(tuple(module for module in modules if module in present) for modules in MODULES)]
    configs = [GroupsConfig(layers=layers, modules=modules) for modules in wanted]
    return [{group.label: group.match for group in make_groups(config, structure)} for config in configs]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_patterns_are_what_they_were(architecture: str) -> None:
    expected = json.loads(PATTERNS.read_text())[architecture]
    assert patterns(architecture) == expected, "if meant: python tests/search_spaces/test_patterns.py"


if __name__ == "__main__":
    PATTERNS.write_text(json.dumps({name: patterns(name) for name in ARCHITECTURES}, indent=1) + "\n")
