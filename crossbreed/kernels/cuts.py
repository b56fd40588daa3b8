"""Where the largest elements of a delta end: a density becomes a compare, never a sort.

A search steps densities on a grid of 1/1024. The first cut of a tensor is found alone; as soon as a second density is
asked for, those of the whole grid are found together, and every candidate after that looks its own up.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from crossbreed.kernels import native
from crossbreed.kernels.programs import Cut
from crossbreed.kernels.tensors import Parent, Parents
from crossbreed.operators.spec import DENSITY_GRID

_SAMPLE, _MARGIN = 8192, 256
_SMALL = 1 << 14
"""Elements up to which a sort takes less time than to tell magnitudes apart digit by digit."""
_SORTABLE = 1 << 26
"""Elements beyond which a sort would take gigabytes: there each density has a selection of its own."""


def num_kept(density: float, size: int) -> int:
    """How many of `size` elements a density keeps: mergekit's max(1, int(density n))."""
    return max(1, int(density * size))


def cut_of(parents: Parents, parent: Parent, density: float) -> Cut | None:
    """Returns the cut that keeps `num_kept` of an expert's elements in this tensor; None: it keeps them all.

    Of equal magnitudes at the cut, those with the lowest flat index are kept.
    """
    size = parents.base.numel()
    if density >= 1 or size == 0:
        return None
    first = parents.fact_of(parent, "first density", lambda: density)
    step = density * DENSITY_GRID
    if density != first and step == int(step):
        grid = parents.fact_of(parent, "cuts", lambda: _find_grid(parents, parent))
        if grid is not None:
            magnitudes, ends = grid
            return Cut(float(magnitudes[int(step)]), int(ends[int(step)]))
    keep = num_kept(density, size)
    return parents.fact_of(parent, "cut", lambda: _find(parents, parent, keep), keep)


def operand_of(parent: Parent, base: torch.Tensor) -> native.Operand:
    """Returns an expert's delta as compiled kernels take it, computed first if it is a product."""
    if isinstance(parent.value, torch.Tensor):
        return native.Operand(full=parent.value)
    return native.Operand(delta=parent.whole_delta(base))


def _find(parents: Parents, parent: Parent, keep: int) -> Cut:
    found = _compiled(parents, parent, np.array([keep]))
    if found is None:
        return find_cut(parent.whole_delta(parents.base), keep)
    magnitudes, ends = found
    return Cut(float(magnitudes[0]), int(ends[0]))


def _find_grid(parents: Parents, parent: Parent) -> native.Cuts | None:
    """Returns the cuts at 0, 1/1024, ... 1023/1024; None: it would take too much memory."""
    size = parents.base.numel()
    keeps = np.maximum(1, (np.arange(DENSITY_GRID) / DENSITY_GRID * size).astype(np.int64))
    if size > _SMALL and ((found := _compiled(parents, parent, keeps)) is not None or size > _SORTABLE):
        return found
    return sort_cuts(parent.whole_delta(parents.base), keeps)


def _compiled(parents: Parents, parent: Parent, keeps: NDArray[np.int64]) -> native.Cuts | None:
    base = parents.base
    return None if base.is_cuda else native.find_cuts(base, operand_of(parent, base), keeps)


def model_cut_of(parents: Parents, parent: Parent, density: float) -> Cut | None:
    """Returns this tensor's part of the cut that keeps a density of the expert's elements in all tensors together.

    Equal magnitudes are kept in the order of tensor names.
    """
    if density >= 1:
        return None
    key = ("model cut", parents.base_hash, parent.hash, density)
    magnitude, name, end = parents.facts.get(key, lambda: _find_model_cut(parents, parent.name, density))
    if parents.name == name:
        return Cut(magnitude, end)
    return Cut(magnitude, parents.base.numel() if parents.name < name else 0)


def _find_model_cut(parents: Parents, expert: str, density: float) -> tuple[float, str, int]:
    """Two passes over the model: how many magnitudes have the same upper 16 bits; then those where the cut falls."""

    def magnitudes() -> Iterator[tuple[str, NDArray[np.int32]]]:
        for tensor in parents.model():
            own = next((parent for parent in tensor.experts if parent.name == expert), None)
            delta = torch.zeros(tensor.base.shape, dtype=torch.float32) if own is None else own.whole_delta(tensor.base)
            yield tensor.name, _bits(delta)

    counts = np.zeros(1 << 16, dtype=np.int64)
    for _, bits in magnitudes():
        counts += np.bincount(bits >> 16, minlength=len(counts))
    keep = num_kept(density, int(counts.sum()))
    above = np.cumsum(counts[::-1])[::-1]  # with these upper bits, or larger ones
    upper = int(np.flatnonzero(above >= keep)[-1])
    inside = {name: bits[bits >> 16 == upper] for name, bits in magnitudes()}
    keep -= int(above[upper] - counts[upper])
    together = np.concatenate(list(inside.values()))
    magnitude = select(together, len(together) - keep)
    num_equal_kept = keep - int(np.count_nonzero(together > magnitude))
    for name, bits in magnitudes():
        equal = np.flatnonzero(bits == magnitude)
        if num_equal_kept <= len(equal):
            return magnitude.view(np.float32).item(), name, int(equal[num_equal_kept - 1]) + 1
        num_equal_kept -= len(equal)
    raise AssertionError("the cut lies among the elements that were counted")


def find_cut(delta: torch.Tensor, keep: int) -> Cut:
    """Returns the cut that keeps `keep` (from 1 to n) of a delta's n fp32 elements.

    Magnitudes are compared by their bits, which are ordered as the floats are (and NaN is the largest of all):
    integers are selected faster, and the count comes out right whatever they hold.
    """
    bits = _bits(delta)
    magnitude = select(bits, len(bits) - keep)
    num_equal_kept = keep - np.count_nonzero(bits > magnitude)
    end = int(np.flatnonzero(bits == magnitude)[num_equal_kept - 1]) + 1
    return Cut(magnitude.view(np.float32).item(), end)


def sort_cuts(delta: torch.Tensor, keeps: NDArray[np.int64]) -> native.Cuts:
    """Returns several cuts of a delta at once."""
    bits = _bits(delta)
    size = len(bits)
    # Later elements first among equals: the last of the kept ones is then the one with the highest index.
    keys = np.sort((bits.astype(np.int64) << 32) | (size - 1 - np.arange(size)))
    last = keys[size - keeps]
    return (last >> 32).astype(np.int32).view(np.float32), size - (last & 0xFFFFFFFF)


def _bits(delta: torch.Tensor) -> NDArray[np.int32]:
    return delta.abs().reshape(-1).cpu().numpy().view(np.int32)


def select(values: NDArray[np.int32], rank: int) -> np.int32:
    """Returns the value that has `rank` in sorted order, exactly.

    A sample brackets it (by more than five standard deviations for values in any order), so that only one value in
    sixteen is partitioned; when the bracket misses, all are.
    """
    sample = np.sort(values[:: max(1, len(values) // _SAMPLE)])
    middle = rank * len(sample) // len(values)
    low = sample[middle - _MARGIN] if middle >= _MARGIN else sample[0]
    high = sample[middle + _MARGIN] if middle + _MARGIN < len(sample) else sample[-1]
    num_below, inside = int((values < low).sum()), values[(values >= low) & (values <= high)]
    if not num_below <= rank < num_below + len(inside):
        num_below, inside = 0, values
    return np.int32(np.partition(inside, rank - num_below)[rank - num_below])
