"""What a checkpoint looks like, without its weights: all that a search space, `check` and a merge service need."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from math import prod

_BLOCKS = r"(?:layers|h|blocks|block)"
_LAYER = re.compile(rf"(?:^|\.){_BLOCKS}\.(\d+)\.")


class ModuleType(StrEnum):
    """The kinds of module that a search space may give coordinates of their own."""

    ATTENTION = "attention"
    MLP = "mlp"
    NORM = "norm"
    EMBEDDING = "embedding"
    """Input embeddings and lm_head."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """A tensor's place in a checkpoint file, without its values."""

    shape: tuple[int, ...]
    dtype: str
    """torch's name, for example `bfloat16`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A base and what its experts change in it."""

    tensors: Mapping[str, TensorInfo]
    """The base's tensors, sorted by name; a tied lm_head is absent."""
    touched: Mapping[str, frozenset[str]]
    """Expert name -> names of the tensors in which it differs from the base."""
    hashes: Mapping[str, str]
    """Source name (`base` and experts) -> content hash."""
    tied: bool
    """lm_head is the input embedding."""

    @property
    def num_layers(self) -> int:
        """Transformer blocks."""
        return _num_layers(tuple(self.tensors))

    @property
    def dtype(self) -> str:
        """The floating-point dtype that most of the base's numbers are stored in."""
        counts: Counter[str] = Counter()
        for info in self.tensors.values():
            if "float" in info.dtype:
                counts[info.dtype] += prod(info.shape)
        return counts.most_common(1)[0][0]

    @property
    def experts(self) -> tuple[str, ...]:
        """Expert names in the order of the Spec."""
        return tuple(self.touched)


@lru_cache(maxsize=64)
def _num_layers(names: tuple[str, ...]) -> int:
    return 1 + max((layer for name in names if (layer := layer_of(name)) is not None), default=-1)


def layer_of(name: str) -> int | None:
    """Returns the block that a tensor belongs to, None for embeddings, final norm and head.

    >>> layer_of("model.layers.7.mlp.up_proj.weight"), layer_of("lm_head.weight")
    (7, None)
    """
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def in_layer(name: str, layer: int) -> str:
    """Returns what the tensor of a block is called in another block.

    >>> in_layer("model.layers.7.mlp.up_proj.weight", 12)
    'model.layers.12.mlp.up_proj.weight'
    """
    found = _LAYER.search(name)
    assert found is not None, f"{name} belongs to no block"
    return f"{name[: found.start(1)]}{layer}{name[found.end(1) :]}"


def depth_of(name: str, num_layers: int) -> float | None:
    """Returns where a tensor's layer is, from 0 (first) to 1 (last); None outside the layers.

    >>> depth_of("model.layers.7.mlp.up_proj.weight", 15), depth_of("lm_head.weight", 15)
    (0.5, None)
    """
    layer = layer_of(name)
    return None if layer is None else layer / max(1, num_layers - 1)


def module_of(name: str) -> ModuleType:
    """Returns the kind of module that a tensor belongs to.

    >>> module_of("model.layers.7.self_attn.q_proj.weight").value
    'attention'
    """
    if re.search(r"norm|ln_\d|ln_f", name):
        return ModuleType.NORM
    if re.search(r"attn|attention", name):
        return ModuleType.ATTENTION
    if re.search(r"mlp|feed_forward|ffn|experts", name):
        return ModuleType.MLP
    if re.search(r"embed|lm_head|wte|wpe", name):
        return ModuleType.EMBEDDING
    return ModuleType.OTHER


def names_pattern(names: Iterable[str]) -> str:
    """Returns a regular expression that matches exactly `names`."""
    return "|".join(re.escape(name) for name in sorted(names))


def layers_pattern(layers: Iterable[int]) -> str:
    """Returns a regular expression that matches the names of all tensors in some blocks.

    >>> bool(re.fullmatch(layers_pattern([0, 7]), "model.layers.7.mlp.up_proj.weight"))
    True
    """
    return rf"(?:.*\.)?{_BLOCKS}\.(?:{'|'.join(map(str, layers))})\..*"
