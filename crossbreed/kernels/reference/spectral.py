"""Singular directions of the deltas, by singular value decompositions."""

from collections.abc import Mapping

import torch

from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule


def tsv_m(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Cut each delta to its rank, replace the directions of all by orthonormal ones, add."""
    spec = OPERATOR_SPECS["tsv_m"]
    weights, parts = (spec.per_source(rule, name, tuple(tensor.experts)) for name in ("weight", "rank"))
    if not tensor.is_projection:
        return tensor.base + spec.scalar(rule, "scale") * mean_of_deltas(tensor, weights)
    if not tensor.hashes:
        return tensor.base
    lefts, values, rights = [], [], []
    even = min(tensor.base.shape) // len(tensor.hashes)
    for name in tensor.hashes:
        left, value, right = torch.linalg.svd(tensor.deltas[name], full_matrices=False)
        rank = min(max(1, int(parts[name] * even)), int((value > 1e-6 * value[0]).sum()))
        lefts.append(left[:, :rank])
        values.append(weights[name] * value[:rank])
        rights.append(right[:rank].T)
    left, right = orthonormal(torch.cat(lefts, 1)), orthonormal(torch.cat(rights, 1))
    return tensor.base + spec.scalar(rule, "scale") * left @ torch.cat(values).diag() @ right.T


def orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """Sets all singular values to 1; those below a thousandth of the largest, to their ratio to that."""
    left, values, right = torch.linalg.svd(columns, full_matrices=False)
    turned: torch.Tensor = left @ (values / values.clamp_min(1e-3 * values[0])).diag() @ right
    return turned


def mean_of_deltas(tensor: Tensor, weights: Mapping[str, float]) -> torch.Tensor:
    """sum(wi (Wi - W0)) / N."""
    deltas = (weights[name] * delta for name, delta in tensor.deltas.items())
    return sum(deltas, torch.zeros_like(tensor.base)) / len(tensor.experts)
