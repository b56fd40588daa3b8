"""The house stands as docs/design.md says: imports run one way, and the core needs no tensor library."""

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import crossbreed
from crossbreed import search_spaces
from crossbreed.fitness.engines import ENGINES
from crossbreed.fitness.tasks import TASKS
from crossbreed.optimizer import OPTIMIZERS
from crossbreed.recipes.operators import OPERATORS
from crossbreed.search_spaces import SPACES

ROOT = Path(crossbreed.__file__).parent
GROUND = {
    "types",
    "domains",
    "errors",
    "constraints",
    "figures",
    "config",
    "field_docs",
    "parsing",
    "yaml_files",
    "randomness",
    "durable",
    "cache",
    "json_text",
    "patterns",
    "text_files",
    "bounded",
    "lazy",
    "objects",
    "registry",
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
    "service": HOUSE | {"service"},
    "stopping": GROUND,
    "terminal": HOUSE,
    "cli": HOUSE | {"cli", "service", "stopping", "terminal"},
    "__init__": HOUSE | {"testing"},
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


NAMES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES
}


def imported_modules(source: str, known: Collection[str]) -> set[str]:
    """Returns the modules that a module imports anywhere, in functions and for types too."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom | ast.Import)]
    wholes = [f"{node.module}." if isinstance(node, ast.ImportFrom) else "" for node in found]
    names = [f"{whole}{alias.name}" for node, whole in zip(found, wholes, strict=True) for alias in node.names]
    return {name if name in known else name.rpartition(".")[0] for name in names} & set(known)


def test_no_module_imports_what_imports_it() -> None:
    imported = {name: imported_modules(path.read_text(), NAMES) - {name} for name, path in NAMES.items()}
    assert len(list(TopologicalSorter(imported).static_order())) == len(NAMES)


def test_a_circle_of_imports_is_seen_wherever_it_stands() -> None:
    texts = {"c.a": "def f():\n    from c import b", "c.b": "if TYPE_CHECKING:\n    from c.a import A"}
    with pytest.raises(CycleError):
        list(TopologicalSorter({name: imported_modules(text, texts) for name, text in texts.items()}).static_order())


SHOWS = {"cli", "terminal.py"}
"""What may write to the terminal."""


def writes_to_the_terminal(source: str) -> list[int]:
    """Returns the lines of a module that print: by `print`, `sys.stdout`, `sys.stderr`, or through rich or typer."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [n.lineno for n in nodes if isinstance(n, ast.Name) and n.id in ("print", "Console", "typer")]
    streams = [
        n.lineno for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n) in ("sys.stdout", "sys.stderr")
    ]
    return sorted(names + streams)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_prints_nothing(module: Path) -> None:
    if module.relative_to(ROOT).parts[0] not in SHOWS:
        assert writes_to_the_terminal(module.read_text()) == []


def test_printing_is_seen_however_it_is_done() -> None:
    source = "print(1)\nConsole().print(2)\nsys.stderr.write('')\ntyper.echo(3)\nprinted = show(print)\n"
    assert writes_to_the_terminal(source) == [1, 2, 3, 4, 5]


def constants(source: str) -> Iterator[str]:
    """Yields the texts of a module that are not docstrings."""
    tree = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


KINDS = {*OPERATORS, *OPTIMIZERS, *ENGINES, *TASKS, *SPACES}
WORDS = {"transformers", "vllm", "nevergrad", "api", "object", "python", "agreement"}
"""Kinds that are also the names of packages or extras, of JSON's types, of the language, or of what judges have."""
NAMING = {"presets.py", "evolve.py"}
"""Modules that write specs, of methods and of another program's files: what they name stands in the spec."""
RUNS = [path for path in MODULES if path.relative_to(ROOT).parts[0] == "runs" and path.name not in NAMING]


@pytest.mark.parametrize("module", RUNS, ids=lambda path: str(path.relative_to(ROOT)))
def test_runs_name_no_kind_of_part(module: Path) -> None:
    """What is special about a kind is a declaration of the part: parts of other packages must have it too."""
    source = module.read_text()
    assert (KINDS - WORDS).isdisjoint(constants(source))
    compared = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Compare | ast.MatchValue)]
    texts = {text for node in compared for text in constants(ast.unparse(node))}
    assert (KINDS - {"object"}).isdisjoint(texts)


def test_a_kind_is_seen_wherever_it_is_named() -> None:
    source = '"""gp"""\ndef f(config):\n    """cma_es"""\n    return config.kind in ("vllm", "ties")'
    assert KINDS.intersection(constants(source)) == {"vllm", "ties"}


SPACE_CLASSES = {name for name in search_spaces.__all__ if name.endswith(("Space", "SpaceConfig", "Config"))}


def type_tests(source: str) -> Iterator[str]:
    """Yields the names that `isinstance` and `match` compare types with."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            compared: list[ast.AST] = list(ast.walk(node.args[1]))
        elif isinstance(node, ast.MatchClass):
            compared = list(ast.walk(node.cls))
        else:
            continue
        yield from (found.id for found in compared if isinstance(found, ast.Name))
        yield from (found.attr for found in compared if isinstance(found, ast.Attribute))


OUTSIDE_SPACES = [path for path in MODULES if path.relative_to(ROOT).parts[0] not in ("search_spaces", "testing")]


@pytest.mark.parametrize("module", OUTSIDE_SPACES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_space_is_told_from_another(module: Path) -> None:
    assert SPACE_CLASSES.isdisjoint(type_tests(module.read_text()))


def test_a_type_test_is_seen_however_it_is_written() -> None:
    source = "isinstance(x, (a.LineageSpace, int))\nmatch y:\n    case CoefficientSpace():\n        pass"
    assert set(type_tests(source)) == {"a", "LineageSpace", "int", "CoefficientSpace"}


CORE_WITHOUT_EXTRAS = """
import sys

extras = ["torch", "vllm", "ray", "transformers", "tokenizers", "safetensors", "triton", "scipy", "pyarrow"]
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
