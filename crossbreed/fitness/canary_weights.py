"""Weights in which every tensor differs from the host's, for the canary: as large as the host's, and as lively.

A tensor that an engine does not take must be seen in its answers. Small changes drown in rounding, so nothing of a
tensor stays in its place: matrices are rolled along both ends, and the signs of vectors alternate. What was initialised
with small numbers is scaled up, or whole modules would be without influence.
"""

import torch

from crossbreed.types import WeightStream

_SHIFT = 0.02
"""Added to vectors, which may be zero."""


def other_weights(weights: WeightStream) -> WeightStream:
    """Returns the stream with every tensor changed; equal tensors stay equal."""
    return ((name, other(tensor)) for name, tensor in weights)


def other(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor of the same shape and size of numbers, different in almost every element.

    >>> other(torch.tensor([1.0, 2.0, 3.0])).tolist()
    [3.0199999809265137, -1.0199999809265137, 2.0199999809265137]
    """
    if not tensor.is_floating_point():
        return tensor
    values = tensor.float()
    if values.ndim < 2:
        signs = 1 - 2.0 * (torch.arange(values.numel()) % 2).reshape(values.shape)
        return (signs * (values.roll(1) + _SHIFT)).to(tensor.dtype)
    rolled = values.roll((1, 1), (0, -1))
    if torch.equal(rolled, values):  # constant
        rolled = torch.linspace(-1, 1, values.numel()).reshape(values.shape)
    gain = float(rolled.square().mean().sqrt()) * rolled.shape[-1] ** 0.5
    changed: torch.Tensor = rolled / min(1.0, gain)
    return changed.to(tensor.dtype)
