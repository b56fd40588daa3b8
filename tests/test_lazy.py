"""The face of the package: all its names are there, in `dir()` and for mypy, and importing it imports nothing heavy."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import crossbreed

LAZY = ("crossbreed", "crossbreed.optimizer", "crossbreed.runs", "crossbreed.sources")
PARTS = ("fitness", "kernels", "optimizer", "recipes", "runs", "search_spaces", "sources", "testing")


def run_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names_for_mypy(package: str) -> set[str]:
    """What the module imports, annotates or defines, its TYPE_CHECKING block included."""
    path = importlib.import_module(package).__file__
    assert path is not None
    tree = ast.parse(Path(path).read_text())
    blocks = [tree, *(node for node in tree.body if isinstance(node, ast.If))]
    nodes = [node for block in blocks for node in block.body]
    imported = {alias.asname or alias.name for n in nodes if isinstance(n, ast.ImportFrom) for alias in n.names}
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    targets = {node.target for node in nodes if isinstance(node, ast.AnnAssign)}
    return imported | defined | {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("package", LAZY)
def test_every_public_name_is_there_and_mypy_sees_it(package: str) -> None:
    module = importlib.import_module(package)
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= names_for_mypy(package)


@pytest.mark.parametrize("package", LAZY)
def test_a_name_that_is_not_there_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'materialise'"):
        _ = importlib.import_module(package).materialise


def test_the_parts_are_attributes_without_being_imported_first() -> None:
    program = "import crossbreed\n" + "\n".join(f"print(crossbreed.{part}.__name__)" for part in PARTS)
    assert run_python(program).split() == [f"crossbreed.{part}" for part in PARTS]


def test_importing_crossbreed_imports_nothing_heavy() -> None:
    program = """
import sys
import crossbreed
dir(crossbreed)
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "numpy", "pydantic", "yaml", "rich"}))
crossbreed.parse_spec
print("torch" in sys.modules)
"""
    assert run_python(program).split("\n")[:2] == ["[]", "False"]


def test_what_needs_torch_says_so_where_there_is_none() -> None:
    program = """
import sys
sys.modules.update(dict.fromkeys(["torch", "safetensors"]))
import crossbreed
for name in ("materialize", "open_sources", "kernels"):
    try:
        getattr(crossbreed, name)
    except crossbreed.errors.MissingExtra as error:
        print(error.fix)
"""
    assert run_python(program).splitlines() == ["pip install 'crossbreed[torch]'"] * 3


def test_the_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert crossbreed.__version__ == version("crossbreed")
