"""Deltas as products of thin factors: singular vectors are found once, and a candidate costs one product.

What costs (singular vectors) depends on sources alone; what a search changes (weights, scale) is diagonal. An adapter's
singular vectors come from its factors by two QRs and never see a whole matrix.

Shapes: M rows, N columns, R rank.
"""

import torch

from crossbreed.kernels.linalg.blas import matmul_by_rows
from crossbreed.kernels.linalg.decompositions import Factors, qr, svd
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs, as_matrix
from crossbreed.sources import LowRank


def singular_factors_of(inputs: TensorInputs, expert: ExpertTensor, rank: int) -> Factors:
    """Returns the largest `rank` singular triplets of an expert's delta, or all that it has; fp32."""
    return inputs.cached_for(expert, "svd", lambda: singular_factors(expert, inputs.base, rank), rank)


def singular_factors(expert: ExpertTensor, base: torch.Tensor, rank: int) -> Factors:
    """Returns the largest `rank` singular triplets of an expert's delta, or all that it has; fp32."""
    if isinstance(expert.value, LowRank):
        low = expert.value
        left_MR, left_RR = qr(low.scale * low.b_MR.double())
        right_NR, right_RR = qr(low.a_RN.double().T)
        core = svd(matmul_by_rows(left_RR, right_RR.T))
        found = Factors(matmul_by_rows(left_MR, core.left_MR), core.values_R, matmul_by_rows(right_NR, core.right_NR))
    else:
        found = svd(as_matrix(expert.whole_delta(base)).double())
    return Factors(found.left_MR[:, :rank].float(), found.values_R[:rank].float(), found.right_NR[:, :rank].float())
