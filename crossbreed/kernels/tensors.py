"""What one tensor is merged from, and how its rows are walked.

A merge is bound by memory, not by arithmetic: it is done in blocks of rows small enough for a core's cache, so that
each stored byte is read once, widened to fp32 there, and each merged byte written once.

Shapes: M rows (a Linear's outputs), N columns (its inputs), R stacked ranks, K rows of a block. A tensor of one
dimension is a column, one of many is flattened after the first.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from crossbreed.kernels.artifacts.input_grams import InputGrams
from crossbreed.kernels.artifacts.walk_statistics import WalkStatistics
from crossbreed.kernels.linalg.low_rank import low_rank_product
from crossbreed.kernels.source_cache import SourceCache
from crossbreed.sources import LowRank
from crossbreed.sources.naming import is_projection

T = TypeVar("T")

BLOCK = 1 << 17
"""Elements in a block: half a mebibyte in fp32, so that a few of them stay in cache together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTensor:
    """What an expert has of a tensor that it changes."""

    name: str
    """The expert's name in the recipe."""
    hash: str
    """Content hash of the whole expert; sums are taken in its order, so that names and positions change no bit."""
    value: torch.Tensor | LowRank
    """A full checkpoint's own tensor, or the factors that an adapter adds to the base's."""

    def delta(self, base_KN: torch.Tensor, rows: slice) -> torch.Tensor:
        """Returns the fp32 delta of some rows from the base's, in fp32."""
        if isinstance(self.value, LowRank):
            return low_rank_product(self.value.scale * self.value.b_MR[rows], self.value.a_RN)
        return as_matrix(self.value)[rows].float() - base_KN

    def whole_delta(self, base: torch.Tensor) -> torch.Tensor:
        """Returns the fp32 delta from the base's tensor, in its shape, as kernels compute it again."""
        if isinstance(self.value, LowRank):
            return low_rank_product(self.value.scale * self.value.b_MR, self.value.a_RN).view(base.shape)
        base_MN = as_matrix(base)
        delta_MN = torch.empty(base_MN.shape, dtype=torch.float32, device=base.device)
        for rows in row_blocks(base_MN):
            delta_MN[rows] = self.delta(base_MN[rows].float(), rows)
        return delta_MN.view(base.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInputs:
    """One tensor of the base, and the experts that change it."""

    name: str
    """The tensor's name in the base."""
    depth: float | None
    """Where its layer is, from 0 (first) to 1 (last); None outside the layers."""
    base_name: str
    base: torch.Tensor
    experts: tuple[ExpertTensor, ...]
    """Sorted by hash; an expert that leaves the tensor as it is, is absent."""
    expert_names: tuple[str, ...]
    """All the recipe's experts, the absent ones too."""
    expert_hashes: tuple[str, ...]
    """Their content hashes, in the same order."""
    base_hash: str
    """Content hash of the base."""
    cache: SourceCache
    """What was found before of the sources."""
    model: Callable[[], Iterator["TensorInputs"]]
    """All floating-point tensors of the merge, sorted by name: for what depends on the whole model."""
    is_stored_transposed: bool = False
    """Whether it is a Linear's matrix stored as (inputs, outputs)."""
    grams: InputGrams | None = None
    """Of the experts' inputs, if the recipe names them."""
    statistics: WalkStatistics | None = None
    """Of a regression's walk, if the recipe names them."""

    @property
    def is_projection(self) -> bool:
        """Whether it is a Linear's matrix inside the model: no vector, no embedding, no head."""
        return is_projection(self.name, self.base.shape)

    def cached(self, what: str, find: Callable[[], T], *about: Hashable) -> T:
        """Returns a value that depends on this tensor, all its experts and `about`; `what` says which one."""
        hashes = tuple(expert.hash for expert in self.experts)
        return self.cache.get((what, self.name, self.base_hash, hashes, *about), find)

    def cached_for(self, expert: ExpertTensor, what: str, find: Callable[[], T], *about: Hashable) -> T:
        """Returns a value that depends on this tensor of one expert, and on `about`."""
        return self.cache.get((what, self.name, self.base_hash, expert.hash, *about), find)


def as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a view as M rows."""
    if tensor.ndim == 2:
        return tensor
    return tensor.reshape(tensor.shape[0] if tensor.ndim else 1, -1)


def row_blocks(matrix_MN: torch.Tensor, block: int | None = None) -> Iterator[slice]:
    """Yields the rows of each block of about `block` elements."""
    num_rows, num_columns = matrix_MN.shape
    step = max(1, (block or BLOCK) // max(1, num_columns))
    return (slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step))
