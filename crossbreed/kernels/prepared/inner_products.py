"""Inner products of what a tensor is merged from: all that geometry needs to know of it.

A point on a sphere through weights (or deltas) is a sum of them, with coefficients that depend on the weights through
their norms and angles alone. So one pass over a tensor, once in a search's life, leaves a candidate a few numbers to
compute, and then a weighted sum.

Everything is fp64, block by block: the angle between two experts of one base is small, and is what is left when nearly
equal numbers cancel. That is also why deltas have products of their own: those of the weights do not hold them.
Each row is summed by itself, so that the bits do not depend on the number of threads.

Shapes: M rows, N columns, R stacked ranks, K rows of a block, V vectors: the base first, then the experts.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import reduce
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from crossbreed.kernels.linalg.blas import matmul_by_rows, on_threads
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs, as_matrix, row_blocks
from crossbreed.sources import LowRank

InnerProducts: TypeAlias = NDArray[np.float64]
"""[V, V]; or [M, V, V], of each row; or [N, V, V], of each column."""


class Of(StrEnum):
    """What is multiplied."""

    WEIGHTS = "weights"
    DELTAS = "deltas"
    """The base's is 0."""


class Along(StrEnum):
    """What is a vector."""

    TENSOR = "tensor"
    ROWS = "rows"
    COLUMNS = "columns"


def inner_products_of(inputs: TensorInputs, of: Of, along: Along = Along.TENSOR) -> InnerProducts:
    """Returns the inner products of the base and of the experts that change the tensor, in the order of `experts`."""
    return inputs.cached("inner products", lambda: _find(inputs, of, along), of, along)


def inner_products_with_base(base: torch.Tensor, experts: Sequence[ExpertTensor], along: Along) -> InnerProducts:
    """Returns the inner products of the base's weights and of the experts' deltas."""
    base_MN = as_matrix(base)
    deltas = [_delta(expert, base_MN) for expert in experts]
    return _in_blocks(base_MN, [lambda rows: base_MN[rows].double(), *deltas], along)


def _find(inputs: TensorInputs, of: Of, along: Along) -> InnerProducts:
    if of is Of.WEIGHTS:
        num_vectors = 1 + len(inputs.experts)
        sums_VV = np.eye(num_vectors)
        sums_VV[:, 0] = 1  # Wi = W0 + di
        return np.ascontiguousarray(sums_VV @ inner_products_with_base(inputs.base, inputs.experts, along) @ sums_VV.T)
    base_MN = as_matrix(inputs.base)
    factors = [expert.value for expert in inputs.experts if isinstance(expert.value, LowRank)]
    if len(factors) == len(inputs.experts) and factors:
        products = _of_factors(factors, along)
    else:
        products = _in_blocks(base_MN, [_delta(expert, base_MN) for expert in inputs.experts], along)
    return np.pad(products, [(0, 0)] * (products.ndim - 2) + [(1, 0), (1, 0)])


def _delta(expert: ExpertTensor, base_MN: torch.Tensor) -> Callable[[slice], torch.Tensor]:
    """Returns what gives some rows of an expert's delta."""
    if isinstance(expert.value, LowRank):
        b_MR, a_RN = expert.value.scale * expert.value.b_MR.double(), expert.value.a_RN.double()
        return lambda rows: matmul_by_rows(b_MR[rows], a_RN)
    expert_MN = as_matrix(expert.value)
    return lambda rows: expert_MN[rows].double() - base_MN[rows].double()


def _in_blocks(
    base_MN: torch.Tensor, vectors: Sequence[Callable[[slice], torch.Tensor]], along: Along
) -> InnerProducts:
    def products(rows: slice) -> InnerProducts:
        block_VKN = torch.stack([vector(rows) for vector in vectors])
        summed = 1 if along is Along.COLUMNS else 2
        return torch.stack([(vector_KN * block_VKN).sum(summed) for vector_KN in block_VKN]).cpu().numpy()

    blocks = map(products, row_blocks(base_MN))
    of_each = reduce(np.add, blocks) if along is Along.COLUMNS else np.concatenate(list(blocks), axis=-1)
    return np.asarray(of_each.sum(-1)) if along is Along.TENSOR else np.ascontiguousarray(np.moveaxis(of_each, -1, 0))


@on_threads(1)
def _of_factors(factors: Sequence[LowRank], along: Along) -> InnerProducts:
    """<di, dj> = si sj tr((Bi^T Bj)(Aj Ai^T)), and the same of rows or columns, without making a delta."""
    b_MR = torch.cat([low.scale * low.b_MR.double() for low in factors], 1)
    a_RN = torch.cat([low.a_RN.double() for low in factors])
    owners = torch.arange(len(factors), device=a_RN.device)
    ranks = torch.tensor([len(low.a_RN) for low in factors], device=a_RN.device)
    owner_VR = (owners[:, None] == owners.repeat_interleave(ranks)).double()
    if along is Along.TENSOR:
        return np.asarray((owner_VR @ ((b_MR.T @ b_MR) * (a_RN @ a_RN.T)) @ owner_VR.T).cpu())
    outer, inner_RR = (b_MR, a_RN @ a_RN.T) if along is Along.ROWS else (a_RN.T, b_MR.T @ b_MR)
    parts = outer[:, None, :] * owner_VR
    return np.asarray((parts @ inner_RR @ parts.mT).cpu())
