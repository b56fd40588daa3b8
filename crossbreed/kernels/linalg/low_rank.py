"""Products of an adapter's factors, to the same bits everywhere.

A BLAS sums in an order of its own, which depends on the machine and the number of threads; what was scored could then
not be published elsewhere. Here ranks are summed in order, each product and each sum rounded.
"""

import torch

from crossbreed.kernels import native


def low_rank_product(b_MR: torch.Tensor, a_RN: torch.Tensor) -> torch.Tensor:
    """Returns B A in fp32."""
    made_MN = native.product(b_MR, a_RN)
    return low_rank_product_in_order(b_MR, a_RN) if made_MN is None else made_MN


def low_rank_product_in_order(b_MR: torch.Tensor, a_RN: torch.Tensor) -> torch.Tensor:
    """The same in torch, one rank after the other."""
    made_MN = torch.zeros(len(b_MR), a_RN.shape[1], dtype=torch.float32, device=a_RN.device)
    for b_M, a_N in zip(b_MR.T, a_RN, strict=True):
        made_MN += b_M[:, None] * a_N
    return made_MN
