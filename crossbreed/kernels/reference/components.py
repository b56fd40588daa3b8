"""Rank components of the experts' deltas."""

import torch

from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule


def rank_components(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """W0 + sum(wi di) + sum(cir bir air^T), with torch's own singular vectors of a full checkpoint's delta."""
    spec = OPERATOR_SPECS[rule.operator]
    weights, numbers = spec.per_source(rule, "weight", tuple(tensor.experts)), spec.numbers(rule, "components")
    merged = tensor.base.clone()
    for name, delta in tensor.deltas.items():
        merged += weights[name] * delta
        if name not in numbers or name not in tensor.hashes:
            continue
        low = tensor.factors.get(name)
        if low is None:
            left, values, right = torch.linalg.svd(delta.reshape(len(delta), -1) if delta.ndim else delta.view(1, 1))
            pairs = [(values[r] * left[:, r], right[r]) for r in range(len(values))]
        else:
            pairs = [(low.scale * low.b_MR[:, r].double(), low.a_RN[r].double()) for r in range(len(low.a_RN))]
        for number, (column, row) in zip(numbers[name], pairs, strict=False):
            merged += number * torch.outer(column, row).view(merged.shape)
    return merged
