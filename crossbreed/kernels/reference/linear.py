"""Sums with one number for each source."""

import torch

from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule


def linear(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """sum(wi Wi), base included, divided by sum(wi) if normalised."""
    spec, sources = OPERATOR_SPECS["linear"], {tensor.base_name: tensor.base, **tensor.experts}
    weights = spec.per_source(rule, "weight", tuple(sources))
    total = sum((weights[name] * value for name, value in sources.items()), torch.zeros_like(tensor.base))
    return total / sum(weights.values()) if spec.scalar(rule, "normalize") else total


def task_arithmetic(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """W0 + scale sum(wi (Wi - W0))."""
    spec = OPERATOR_SPECS["task_arithmetic"]
    weights = spec.per_source(rule, "weight", tuple(tensor.experts))
    deltas = sum((weights[name] * delta for name, delta in tensor.deltas.items()), torch.zeros_like(tensor.base))
    return tensor.base + spec.scalar(rule, "scale") * deltas
