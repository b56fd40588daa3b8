"""What a new spec begins with: space, optimizer and engine that suit most merges."""

import math
from collections.abc import Sequence
from typing import Any

from crossbreed.errors import is_installed
from crossbreed.search_spaces.groups import GroupsConfig, make_groups
from crossbreed.sources.naming import ModuleType, module_of
from crossbreed.sources.structure import Structure

_MODULES = (ModuleType.ATTENTION, ModuleType.MLP)
_MOST_COORDINATES = 40
"""Beyond, a few hundred trials on a few dozen items find little."""
_TRIALS = (40, 200)
"""The fewest and the most."""
_BANDS_FROM = 6
"""Fewer layers are not divided into bands."""
_FREE_MEMORY = 0.5
"""The share of memory that weights may take: the rest is for the sources' cache, the engine's and the system."""


def space_for(structure: Structure) -> tuple[dict[str, Any], int]:
    """Returns the space to begin with, and its number of coordinates: the finest groups that are not too many."""
    bands = 3 if structure.num_layers >= _BANDS_FROM else None
    touched = {module_of(name) for name in structure.touched_by_any}
    modules = _MODULES if touched.issuperset(_MODULES) else ()
    tried = [(bands, modules), (bands, ()), (None, modules), (None, ())]
    sizes = [_num_coordinates(structure, *groups) for groups in tried]
    best = next((i for i, size in enumerate(sizes) if size <= _MOST_COORDINATES), len(tried) - 1)
    layers, kept = tried[best]
    groups = {"layers": layers} if layers else {}
    space = {
        "kind": "coefficients",
        "operator": "task_arithmetic",
        "groups": {**groups, **({"modules": list(map(str, kept))} if kept else {})},
        "weight": [-0.5, 1.5],
    }
    return space, sizes[best]


def _num_coordinates(structure: Structure, layers: int | None, modules: Sequence[ModuleType]) -> int:
    groups = make_groups(GroupsConfig(layers=layers, modules=tuple(modules)), structure)
    return sum(len(group.experts) for group in groups)


def optimizer_for(num_coordinates: int, num_objectives: int) -> dict[str, Any]:
    """Returns the optimizer to begin with, and a budget that lets it learn."""
    fewest, most = _TRIALS
    trials = min(most, max(fewest, 10 * math.ceil(0.55 * num_coordinates)))
    if num_objectives > 1:
        return {"kind": "nsga2", "budget": {"trials": max(trials, 100)}}
    return {"kind": "cma_es", "budget": {"trials": trials}}


def engine_for(*, dtype: str, context_tokens: int, weight_bytes: int, memory_bytes: int) -> dict[str, Any]:
    """Returns the engine to begin with: the fast one, where it is installed and has the memory."""
    fits = weight_bytes < _FREE_MEMORY * memory_bytes
    kind = "vllm" if is_installed("vllm") and fits else "transformers"
    return {"kind": kind, "dtype": "bfloat16" if dtype == "float16" else dtype, "max_model_len": context_tokens}
