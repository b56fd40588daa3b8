"""Weighted sums of models, and of deltas that may be thinned out and elected."""

from collections.abc import Mapping
from functools import partial

import torch

from crossbreed.mergekit.numerics.inputs import Inputs, Merge
from crossbreed.mergekit.numerics.thinning import Keep, by_chance, by_rank, largest, thin, without_outliers


def linear(inputs: Inputs) -> torch.Tensor:
    """Returns sum(wi Wi), divided by sum(wi) if normalized: in fp32, with fused multiply-adds, rounded once."""
    dtype = inputs.tensors[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    weights = inputs.weights(inputs.all, wide)
    total = torch.zeros_like(inputs.tensors[0], dtype=wide)
    for tensor, weight in zip(inputs.tensors, weights, strict=True):
        total.addcmul_(tensor.to(wide), weight)
    if inputs.flag("normalize"):
        total /= weights.sum()
    return total.to(dtype)


def passthrough(inputs: Inputs) -> torch.Tensor:
    """Returns the tensor, scaled if the model has a scale."""
    (only,) = inputs.all
    return only.tensor if only.parameters.get("scale") is None else only.tensor * inputs.number("scale", only)


def add_deltas(inputs: Inputs, keep: Keep | None, *, elects: bool) -> torch.Tensor:
    """Returns W0 + lambda sum(wi di), of deltas thinned out by `keep`, and of those that agree if it `elects`."""
    if not inputs.experts:
        return inputs.base
    weights = inputs.weights(inputs.experts, inputs.base.dtype).view(-1, *[1] * inputs.base.ndim)
    parts = zip(inputs.experts, inputs.deltas, strict=True)
    deltas = torch.stack([thin(inputs, one, delta, keep) if keep else delta for one, delta in parts])
    deltas *= weights
    if elects:
        agrees = deltas.sign() == elected_sign(deltas)
        mixed = (deltas * agrees).sum(0)
        divisor = (weights * agrees).sum(0)
        divisor[divisor == 0] = 1
    else:
        mixed = deltas.sum(0)
        divisor = weights.sum(0)
        divisor[divisor.abs() < 1e-8] = 1
    if inputs.flag("normalize"):
        mixed /= divisor
    scale = inputs.number("lambda")
    return inputs.base + (mixed if scale == 1 else mixed * scale)


def elected_sign(deltas: torch.Tensor) -> torch.Tensor:
    """Returns the sign of each element's sum over experts; a sum of 0 elects plus."""
    return (deltas.sum(0) >= 0).to(deltas.dtype) * 2 - 1


def _deltas(keep: Keep | None = None, *, elects: bool = False) -> Merge:
    return partial(add_deltas, keep=keep, elects=elects)


MERGES: Mapping[str, Merge] = {
    "linear": linear,
    "passthrough": passthrough,
    "task_arithmetic": _deltas(),
    "ties": _deltas(largest, elects=True),
    "dare_linear": _deltas(by_chance),
    "dare_ties": _deltas(by_chance, elects=True),
    "della": _deltas(by_rank, elects=True),
    "della_linear": _deltas(by_rank),
    "breadcrumbs": _deltas(without_outliers),
    "breadcrumbs_ties": _deltas(without_outliers, elects=True),
}
