"""The patterns that groups get in many architectures: recorded journals decode to rules with the same patterns."""

import json
from pathlib import Path

import pytest

from crossbreed.errors import InputError
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


TOWERS = {"qwen2_vl": "visual.", "gemma3-vision": "vision_tower.", "llava": "vision_tower."}


@pytest.mark.parametrize("architecture", TOWERS)
@pytest.mark.parametrize("modules", [(), ("attention", "mlp"), ("attention", "vision")])
def test_towers_share_no_coordinate_with_the_layers_of_text(architecture: str, modules: tuple[str, ...]) -> None:
    structure = structure_of(architecture)
    assert structure.num_layers == 2  # of text; the tower has 3
    groups = make_groups(GroupsConfig.model_validate({"layers": 2, "modules": modules}), structure)
    of_tower = {group.label for group in groups if any(TOWERS[architecture] in name for name in group.tensors)}
    assert of_tower == {"vision" if "vision" in modules else "rest"}
    expected = (
        {f"layer {n} / {m}" for n in (0, 1) for m in modules if m != "vision"} if modules else {"layer 0", "layer 1"}
    )
    assert {group.label for group in groups} == expected | {"rest"} | {"vision"} & set(modules)


@pytest.mark.parametrize(("architecture", "layers"), [("bart", 2), ("t5", 2), ("bert", 2), ("chatglm", 1)])
def test_the_layers_of_an_encoder_beside_a_decoder_are_not_counted(architecture: str, layers: int) -> None:
    assert structure_of(architecture).num_layers == layers


def test_layers_under_unknown_names_are_named() -> None:
    tensors = {f"net.cells.{n}.attn.weight": TensorInfo(shape=(2, 2), dtype="float32") for n in range(3)}
    structure = Structure(
        tensors=tensors, touched={"a": frozenset(tensors)}, hashes={"base": "0", "a": "1"}, tied=False
    )
    with pytest.raises(InputError, match="no layers under a name") as refused:
        make_groups(GroupsConfig(layers=2), structure)
    assert "net.cells (3)" in refused.value.got
    assert len(make_groups(GroupsConfig(), structure)) == 1  # as the message advises


if __name__ == "__main__":
    PATTERNS.write_text(json.dumps({name: patterns(name) for name in ARCHITECTURES}, indent=1) + "\n")
