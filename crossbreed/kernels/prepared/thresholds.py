"""Where the largest elements of a delta end: a density becomes a compare, never a sort.

A search steps densities on a grid of 1/1024. The first threshold of a tensor is found alone; as soon as a second
density is asked for, those of the whole grid are found together, and every candidate after that looks its own up.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from crossbreed.kernels.executors import executor_of
from crossbreed.kernels.linalg.order_statistics import magnitude_bits, select
from crossbreed.kernels.masks import Threshold
from crossbreed.kernels.native import Thresholds
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.recipes.operators.spec import DENSITY_GRID


def num_kept(density: float, size: int) -> int:
    """How many of `size` elements a density keeps: mergekit's max(1, int(density n))."""
    return max(1, int(density * size))


def threshold_of(inputs: TensorInputs, expert: ExpertTensor, density: float) -> Threshold | None:
    """Returns the threshold that keeps `num_kept` of an expert's elements in this tensor; None: it keeps them all.

    Of equal magnitudes at the threshold, those with the lowest flat index are kept.
    """
    size = inputs.base.numel()
    if density >= 1 or size == 0:
        return None
    first = inputs.cached_for(expert, "first density", lambda: density)
    step = density * DENSITY_GRID
    if density != first and step == int(step):
        grid = inputs.cached_for(expert, "thresholds", lambda: _find_grid(inputs, expert))
        if grid is not None:
            return _at(grid, int(step))
    keep = num_kept(density, size)
    return inputs.cached_for(expert, "threshold", lambda: _find(inputs, expert, keep), keep)


def _find(inputs: TensorInputs, expert: ExpertTensor, keep: int) -> Threshold:
    found = executor_of(inputs.base).find_thresholds(expert, inputs.base, np.array([keep]))
    assert found is not None, "a single threshold is always found"
    return _at(found, 0)


def _find_grid(inputs: TensorInputs, expert: ExpertTensor) -> Thresholds | None:
    """Returns the thresholds at 0, 1/1024, ... 1023/1024; None: it would take too much memory."""
    keeps = np.maximum(1, (np.arange(DENSITY_GRID) / DENSITY_GRID * inputs.base.numel()).astype(np.int64))
    return executor_of(inputs.base).find_thresholds(expert, inputs.base, keeps)


def _at(thresholds: Thresholds, index: int) -> Threshold:
    magnitudes, ends = thresholds
    return Threshold(float(magnitudes[index]), int(ends[index]))


def model_threshold_of(inputs: TensorInputs, expert: ExpertTensor, density: float) -> Threshold | None:
    """Returns this tensor's part of the threshold that keeps a density of an expert's elements in all tensors together.

    Equal magnitudes are kept in the order of tensor names.
    """
    if density >= 1:
        return None
    key = ("model threshold", inputs.base_hash, expert.hash, density)
    magnitude, name, end = inputs.cache.get(key, lambda: _find_model_threshold(inputs, expert.name, density))
    if inputs.name == name:
        return Threshold(magnitude, end)
    return Threshold(magnitude, inputs.base.numel() if inputs.name < name else 0)


def _find_model_threshold(inputs: TensorInputs, expert_name: str, density: float) -> tuple[float, str, int]:
    """Two passes over the model: how many magnitudes have the same upper 16 bits; then those at the threshold."""

    def magnitudes() -> Iterator[tuple[str, NDArray[np.int32]]]:
        for tensor in inputs.model():
            own = next((expert for expert in tensor.experts if expert.name == expert_name), None)
            delta = torch.zeros(tensor.base.shape, dtype=torch.float32) if own is None else own.whole_delta(tensor.base)
            yield tensor.name, magnitude_bits(delta)

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
    raise AssertionError("the threshold lies among the elements that were counted")
