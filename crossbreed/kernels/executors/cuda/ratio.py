"""W = W0 + sum(ci Fi di) / sum(ci Fi): each element an average, weighted by its importance to each expert.

Fisher merging (Matena and Raffel, arXiv 2111.09832, equation 4) where the Fi are the diagonals of Fisher matrices.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from crossbreed.kernels.executors.cuda.launch import Launch, block_for, blocks, load_delta
from crossbreed.kernels.executors.cuda.values import Values


@triton.jit
def _average(out, base, values, importances, coefficients, size, IS_FULL: tl.constexpr, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    inside = tl.arange(0, BLOCK)
    mask = inside < size - first
    base_B = tl.load(base + first + inside, mask=mask, other=0.0).to(tl.float32)
    divisor = tl.load(importances[0] + first + inside, mask=mask, other=0.0).to(tl.float32) * coefficients[0]
    total = load_delta(values[0], first, inside, mask, base_B, IS_FULL[0]) * divisor
    for i in tl.static_range(1, len(IS_FULL)):
        share = tl.load(importances[i] + first + inside, mask=mask, other=0.0).to(tl.float32) * coefficients[i]
        total = total + load_delta(values[i], first, inside, mask, base_B, IS_FULL[i]) * share
        divisor = divisor + share
    average = tl.div_rn(total, tl.where(divisor == 0, 1.0, divisor))
    tl.store(out + first + inside, base_B + average, mask=mask)


def ratio(
    base: torch.Tensor,
    values: Values,
    importances: Sequence[torch.Tensor],
    coefficients: Sequence[float],
    out: torch.Tensor,
) -> Launch:
    """Returns the launch that writes base + the average of the deltas, rounded once, to `out`.

    Args:
        base: The base's tensor.
        values: The tensors that the deltas are made from.
        importances: One for each of them, in the base's shape and any float dtype. Where their weighted sum is 0 the
            divisor is 1: the base, unless weights of both signs cancel.
        coefficients: One for each of them.
        out: The result, in the base's shape.
    """
    block = block_for(len(coefficients))
    held = tuple(importance.to(base.device).contiguous() for importance in importances)
    return Launch(
        kernel=_average,
        grid=blocks(base.numel(), block),
        out=out,
        arguments=(base, values.tensors, held, tuple(map(float, coefficients)), base.numel()),
        constants={"IS_FULL": values.is_full, "BLOCK": block},
    )
