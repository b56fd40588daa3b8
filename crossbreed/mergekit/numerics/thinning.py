"""The selection of the elements of a delta that are kept.

Masks are multiplied, so NaN and Inf reach the result. On a CPU magnitudes are compared in fp32. Torch's unstable sort
chooses among equal magnitudes, by the same call as in mergekit: in bfloat16 dozens of elements are equal at a
threshold.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch

from crossbreed.errors import InputError
from crossbreed.mergekit.numerics.inputs import Input, Inputs

Keep: TypeAlias = Callable[[Inputs, Input, torch.Tensor, float], torch.Tensor]
"""(inputs, one of them, its delta, a density below 1) -> a mask, in the dtype in which the delta is thinned out."""


def thin(inputs: Inputs, one: Input, delta: torch.Tensor, keep: Keep) -> torch.Tensor:
    """Sets the elements of a delta that are not kept to 0, and restores its L1 norm if `rescale` is set."""
    density = inputs.number("density", one)
    if density >= 1:
        return delta
    mask = keep(inputs, one, delta, density)
    wide = delta.to(mask.dtype)
    kept = wide * mask
    before, after = wide.abs().sum(), kept.abs().sum()
    if inputs.flag("rescale") and not (before < 1e-7 or after < 1e-7):
        kept = kept * (before / after)
    return kept.to(delta.dtype)


def largest(inputs: Inputs, one: Input, delta: torch.Tensor, density: float) -> torch.Tensor:
    """Keeps the largest magnitudes: TIES' trimming (arXiv 2306.01708, section 4)."""
    num_kept = max(1, int(density * delta.numel())) if density > 0 else 0
    return _only(delta, _magnitudes(delta).argsort(descending=True)[:num_kept])


def without_outliers(inputs: Inputs, one: Input, delta: torch.Tensor, density: float) -> torch.Tensor:
    """Keeps the magnitudes below the largest: Model Breadcrumbs (arXiv 2312.06795)."""
    num_kept, num_outliers = int(density * delta.numel()), int(inputs.number("gamma", one) * delta.numel())
    start = max(0, delta.numel() - num_kept - num_outliers)
    return _only(delta, _magnitudes(delta).argsort()[start : start + num_kept])


def by_chance(inputs: Inputs, one: Input, delta: torch.Tensor, density: float) -> torch.Tensor:
    """Keeps each element with the same probability: DARE (arXiv 2311.03099)."""
    return _draw(torch.full_like(delta, density, dtype=_dtype_of_chances(delta)), inputs)


def by_rank(inputs: Inputs, one: Input, delta: torch.Tensor, density: float) -> torch.Tensor:
    """Keeps each with a probability that grows with its rank in its row: DELLA's MagPrune (arXiv 2406.11617)."""
    if density <= 0:
        return torch.zeros_like(delta)
    epsilon = inputs.number("epsilon", one)
    if not 0 < density - epsilon <= density + epsilon < 1:
        raise InputError(
            "`density` and `epsilon` give probabilities outside (0, 1)",
            expected="density - epsilon above 0 and density + epsilon below 1",
            got=f"density {density:g}, epsilon {epsilon:g}",
        )
    rows = delta if delta.ndim > 1 else delta.view(1, -1)
    if rows.shape[1] == 1:
        raise InputError(
            f"`{inputs.method.name}` ranks elements within rows, and a tensor's rows have one element",
            got=f"shape {tuple(delta.shape)}",
            fix="give its models density 1 by a filter",
        )
    ranks = rows.abs().argsort(1).argsort(1).to(_dtype_of_chances(delta)) + 1
    low, high = ranks.amin(1, keepdim=True), ranks.amax(1, keepdim=True)
    chances = (density - epsilon) + (ranks - low) / (high - low) * 2 * epsilon
    return _draw(chances, inputs).view_as(delta)


def _magnitudes(delta: torch.Tensor) -> torch.Tensor:
    sizes = delta.abs().flatten()
    return sizes.float() if sizes.device.type == "cpu" else sizes


def _only(delta: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros_like(delta).flatten()
    mask[indices] = 1
    return mask.view_as(delta)


def _dtype_of_chances(delta: torch.Tensor) -> torch.dtype:
    return delta.dtype if delta.device.type != "cpu" or delta.dtype == torch.bfloat16 else torch.float32


def _draw(chances: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    return torch.bernoulli(chances, generator=inputs.generator)
