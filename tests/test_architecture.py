"""The house stands as docs/design.md says: imports run one way, and the core needs no tensor library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import crossbreed

ROOT = Path(crossbreed.__file__).parent
GROUND = {
    "types",
    "errors",
    "config",
    "parsing",
    "randomness",
    "durable",
    "operators",
    "named_recipes",
    "recipes",
    "mergekit",
    "sources",
}
FLOOR = {"search_spaces", "optimizer", "kernels", "fitness"}
HOUSE = GROUND | FLOOR | {"runs"}
MAY_IMPORT = {
    **dict.fromkeys(GROUND, GROUND),
    **{part: GROUND | {part} for part in FLOOR},
    "runs": HOUSE,
    "cli": HOUSE,
    "__init__": HOUSE,
    "testing": HOUSE | {"testing"},
}
MODULES = sorted(ROOT.rglob("*.py"))


def imported_parts(source: str) -> Iterator[str]:
    """Yields the parts of crossbreed that a module imports anywhere in its text, in functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("crossbreed."))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(module: Path) -> None:
    part = module.relative_to(ROOT).parts[0].removesuffix(".py")
    assert set(imported_parts(module.read_text())) <= MAY_IMPORT[part]


def test_an_import_is_seen_wherever_it_stands() -> None:
    source = (
        "from crossbreed import runs\ndef f():\n    import crossbreed.kernels.x\n    from crossbreed.fitness import y"
    )
    assert set(imported_parts(source)) == {"runs", "kernels", "fitness"}


CORE_WITHOUT_EXTRAS = """
import sys

extras = ["torch", "vllm", "ray", "transformers", "tokenizers", "safetensors", "triton", "plotly", "scipy", "pyarrow"]
sys.modules.update(dict.fromkeys(extras))  # None there is how Python says: not installed

import crossbreed.cli
import crossbreed.fitness
import crossbreed.mergekit
import crossbreed.optimizer
import crossbreed.recipes
import crossbreed.runs
import crossbreed.runs.spec
import crossbreed.search_spaces
import crossbreed.sources.structure
import crossbreed.types
"""


def test_the_core_imports_without_extras() -> None:
    done = subprocess.run([sys.executable, "-c", CORE_WITHOUT_EXTRAS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


PUBLIC = ("crossbreed", "fitness", "kernels", "optimizer", "runs", "search_spaces", "sources")
EXPORTED = Path(__file__).parent / "golden/exported_names.txt"


def exported_names() -> str:
    """Every name that a package of crossbreed offers in `__all__`, one a line."""
    modules = ["crossbreed" if part == "crossbreed" else f"crossbreed.{part}" for part in PUBLIC]
    names = [f"{name}.{public}" for name in modules for public in import_module(name).__all__]
    return "".join(f"{name}\n" for name in sorted(names))


def test_exported_names_are_frozen() -> None:
    assert exported_names() == EXPORTED.read_text(), "if the change is meant: python tests/test_architecture.py"


if __name__ == "__main__":
    EXPORTED.parent.mkdir(exist_ok=True)
    EXPORTED.write_text(exported_names())
