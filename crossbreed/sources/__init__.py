"""Where weights come from: checkpoints and LoRA adapters, opened without being read.

A *base* is a full checkpoint. An *expert* is what somebody made of it: another full checkpoint or a PEFT LoRA adapter.
`open_sources` opens them all by mmap, gives each its content hash, finds which tensors an expert touched, and raises
on every disagreement that would make a merge of them wrong.

Only `structure` and `naming` are imported at once: search spaces need names and shapes, not torch. The rest is loaded
when first asked for.
"""

from typing import TYPE_CHECKING

from crossbreed.errors import require
from crossbreed.lazy import attributes
from crossbreed.sources.naming import ModuleType, layer_of, module_of, names_pattern
from crossbreed.sources.structure import Structure, TensorInfo

if TYPE_CHECKING:
    from crossbreed.sources.adapter import Adapter, LowRank
    from crossbreed.sources.card import licence
    from crossbreed.sources.checkpoint import Checkpoint
    from crossbreed.sources.hub import SourceLocation, locate
    from crossbreed.sources.opening import Sources, open_sources

__all__ = [
    "Adapter",
    "Checkpoint",
    "LowRank",
    "ModuleType",
    "SourceLocation",
    "Sources",
    "Structure",
    "TensorInfo",
    "layer_of",
    "licence",
    "locate",
    "module_of",
    "names_pattern",
    "open_sources",
    "require_tensors",
]


def require_tensors(module: str = "") -> None:
    """Raises MissingExtra where what reads and merges tensors is not installed."""
    for package in ("torch", "safetensors", "blake3"):
        require(package, extra="torch")


if not TYPE_CHECKING:  # mypy would take every name for one that `__getattr__` finds
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "crossbreed.sources.adapter": ["Adapter", "LowRank"],
            "crossbreed.sources.card": ["licence"],
            "crossbreed.sources.checkpoint": ["Checkpoint"],
            "crossbreed.sources.hub": ["SourceLocation", "locate"],
            "crossbreed.sources.opening": ["Sources", "open_sources"],
        },
        before=require_tensors,
    )
