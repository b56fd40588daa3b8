"""B A of an adapter, to the bits of the CPU: ranks are summed in order, each product and each sum rounded.

A library's product would sum in an order of its own, and what was scored on one device could not be published from
another. Ranks are small, so this is not worth a tensor core: at rank 64 it takes as long as writing the result.
"""

import torch
import triton
import triton.language as tl

from crossbreed.kernels.executors.cuda.launch import Launch

_ROWS, _COLUMNS = 16, 128


@triton.jit
def _product(out, b, a, num_rows, num_columns, rank, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = rows < num_rows, columns < num_columns
    total_KN = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for r in range(rank):
        b_K = tl.load(b + rows * rank + r, mask=is_row, other=0.0)
        a_N = tl.load(a + r * num_columns + columns, mask=is_column, other=0.0)
        total_KN = total_KN + b_K[:, None] * a_N[None, :]
    tl.store(out + rows[:, None] * num_columns + columns[None, :], total_KN, mask=is_row[:, None] & is_column[None, :])


def product(b_MR: torch.Tensor, a_RN: torch.Tensor) -> Launch:
    """Returns the launch that writes B A; both are contiguous and fp32."""
    num_rows, num_columns = len(b_MR), a_RN.shape[1]
    return Launch(
        kernel=_product,
        grid=(triton.cdiv(num_rows, _ROWS), triton.cdiv(num_columns, _COLUMNS)),
        out=torch.empty((num_rows, num_columns), dtype=torch.float32, device=a_RN.device),
        arguments=(b_MR, a_RN, num_rows, num_columns, len(a_RN)),
        constants={"ROWS": _ROWS, "COLUMNS": _COLUMNS},
    )
