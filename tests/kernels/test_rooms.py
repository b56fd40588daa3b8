"""The rooms of `crossbreed.kernels` stand on few floors: a module imports its own room and those below."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import crossbreed.kernels

ROOT = Path(crossbreed.kernels.__file__).parent
FLOORS = (
    {"masks", "source_cache"},
    {"native"},
    {"linalg"},
    {"artifacts"},
    {"tensors"},
    {"programs"},
    {"executors"},
    {"prepared"},
    {"operators"},
    {"transposed"},
    {"materialize"},
    {"reference", "slopes", "model_products", "fingerprint", "low_rank_changes"},
)
ROOMS = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {"__init__"}


def rooms_imported(source: str) -> Iterator[str]:
    """Yields the rooms that a module imports anywhere in its text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("crossbreed.kernels"):
            parts = (node.module or "").split(".")
            yield from [parts[2]] if len(parts) > 2 else [alias.name for alias in node.names]


def test_every_room_has_a_floor() -> None:
    assert set().union(*FLOORS) == ROOMS
    assert len(ROOMS) <= 17


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_rooms_import_only_those_below(floor: int) -> None:
    below = set().union(*FLOORS[:floor])
    for room in FLOORS[floor]:
        files = [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else sorted((ROOT / room).rglob("*.py"))
        for file in files:
            assert set(rooms_imported(file.read_text())) <= below | {room}, file
