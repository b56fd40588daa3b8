"""Where weights come from: checkpoints and LoRA adapters, opened without being read.

A *base* is a full checkpoint. An *expert* is what somebody made of it: another full checkpoint or a PEFT LoRA adapter.
`open_sources` opens them all by mmap, gives each its content hash, finds which tensors an expert touched, and raises
on every disagreement that would make a merge of them wrong.

Only `structure` is imported at once: search spaces need shapes, not torch. The rest is loaded when first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from crossbreed.errors import require
from crossbreed.sources.structure import ModuleType, Structure, TensorInfo, layer_of, module_of, names_pattern

if TYPE_CHECKING:
    from crossbreed.sources.adapter import Adapter, LowRank
    from crossbreed.sources.card import licence
    from crossbreed.sources.checkpoint import Checkpoint
    from crossbreed.sources.hub import Origin, locate
    from crossbreed.sources.opening import Sources, open_sources

__all__ = [
    "Adapter",
    "Checkpoint",
    "LowRank",
    "ModuleType",
    "Origin",
    "Sources",
    "Structure",
    "TensorInfo",
    "layer_of",
    "licence",
    "locate",
    "module_of",
    "names_pattern",
    "open_sources",
]

_HOMES = {
    "Adapter": "adapter",
    "LowRank": "adapter",
    "licence": "card",
    "Checkpoint": "checkpoint",
    "Origin": "hub",
    "locate": "hub",
    "Sources": "opening",
    "open_sources": "opening",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for package in ("torch", "safetensors", "blake3"):
        require(package, extra="torch")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
