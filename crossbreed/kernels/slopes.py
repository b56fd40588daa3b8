"""The slope of the loss along each expert's delta, tensor by tensor: Frank-Wolfe chooses a vertex by these.

The derivative of a loss along an expert's coefficient is <g, d>, where g is the gradient of the weights and d the
expert's delta. A gradient is as large as a model, and there is one, whatever the number of experts: it goes by once,
and each of its tensors is compared with one expert after the other. An adapter's delta is never made: with d = s B A,
<g, d> = s <B^T g, A>. Everything is summed in fp64.

Shapes: M rows, N columns, R ranks.
"""

from collections.abc import Callable
from functools import partial
from math import sqrt

import torch

from crossbreed.kernels.materialize import expert_tensors
from crossbreed.kernels.source_cache import SourceCache
from crossbreed.kernels.tensors import as_matrix, row_blocks
from crossbreed.sources import LowRank, Sources
from crossbreed.types import SlopeKind, WeightStream

_BLOCK = 1 << 20
"""Elements in a block: eight mebibytes in fp64."""


def slopes(
    gradient: WeightStream, sources: Sources, kind: SlopeKind, cache: SourceCache | None = None
) -> dict[str, dict[str, float]]:
    """Returns a number for each tensor that some expert changes, and each expert: tensor -> expert -> slope.

    Args:
        gradient: The gradient of a loss, by the base's tensor names; a tensor that is absent has no slopes.
        sources: Opened.
        kind: `inner` is <g, d>, 0 for an expert that leaves the tensor as it is. `cosine` is that by both norms: how
            well the delta points down, whatever its size. `weight_cosine` is the cosine with the expert's weights, as
            the published code of FW-Merging takes it (arXiv 2503.12649), less that with the base's, which all have in
            common: which expert has the least is the same, for a tensor and for sums over tensors, and one that leaves
            a tensor alone has 0 there.
        cache: Norms, which every candidate asks for.
    """
    cache = cache or SourceCache()
    found = {}
    touched = sources.structure.touched_by_any
    for name, tensor in gradient:
        if name in touched:
            base_MN = as_matrix(sources.base.tensor(name))
            found[name] = _of_tensor(name, as_matrix(tensor).to(base_MN.device), base_MN, sources, kind, cache)
    return found


def _of_tensor(
    name: str, gradient_MN: torch.Tensor, base_MN: torch.Tensor, sources: Sources, kind: SlopeKind, cache: SourceCache
) -> dict[str, float]:
    def known(what: str, whose: str, find: Callable[[], float]) -> float:
        return cache.get((what, name, sources.base.hash, whose), find)

    steep = sqrt(_inner(gradient_MN, gradient_MN)) if kind != "inner" else 1.0
    values = dict.fromkeys(sources.experts, 0.0)
    if kind == "weight_cosine":
        along_base = _inner(gradient_MN, base_MN)
        base_square = known("square of the base", "", partial(_inner, base_MN, base_MN))
        base_cosine = _cosine(along_base, steep, base_square)
    for expert in expert_tensors(name, sources.experts):
        along = _along(gradient_MN, expert.value, base_MN)
        if kind == "inner":
            values[expert.name] = along
            continue
        square = known("square of a delta", expert.hash, partial(_square, expert.value, base_MN))
        if kind == "weight_cosine":
            mixed = known("base by delta", expert.hash, partial(_along, base_MN, expert.value, base_MN))
            square = base_square + 2 * mixed + square
            values[expert.name] = _cosine(along_base + along, steep, square) - base_cosine
        else:
            values[expert.name] = _cosine(along, steep, square)
    return values


def _cosine(product: float, norm: float, square: float) -> float:
    """A zero vector has no direction: its cosine is 0."""
    return product / (norm * sqrt(square)) if norm > 0 and square > 0 else 0.0


def _inner(some_MN: torch.Tensor, other_MN: torch.Tensor) -> float:
    blocks = row_blocks(some_MN, _BLOCK)
    return sum(float(some_MN[rows].double().flatten() @ other_MN[rows].double().flatten()) for rows in blocks)


def _along(matrix_MN: torch.Tensor, value: torch.Tensor | LowRank, base_MN: torch.Tensor) -> float:
    """<matrix, delta>."""
    if isinstance(value, LowRank):
        b_MR, a_RN = value.b_MR.double(), value.a_RN.double()
        blocks = row_blocks(matrix_MN, _BLOCK)
        return value.scale * sum(float(((b_MR[k].T @ matrix_MN[k].double()) * a_RN).sum()) for k in blocks)
    expert_MN = as_matrix(value)
    return sum(
        float((matrix_MN[k].double() * (expert_MN[k].double() - base_MN[k].double())).sum())
        for k in row_blocks(matrix_MN, _BLOCK)
    )


def _square(value: torch.Tensor | LowRank, base_MN: torch.Tensor) -> float:
    """<delta, delta>."""
    if isinstance(value, LowRank):
        b_MR, a_RN = value.b_MR.double(), value.a_RN.double()
        return value.scale**2 * float(((b_MR.T @ b_MR) * (a_RN @ a_RN.T)).sum())
    expert_MN = as_matrix(value)
    blocks = row_blocks(base_MN, _BLOCK)
    return sum(float((expert_MN[k].double() - base_MN[k].double()).square().sum()) for k in blocks)
