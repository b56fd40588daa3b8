"""W = c0 W0 + sum(ci di), with numbers, or with numbers for each row or column.

Memory-bound for any N: of bf16 experts 2 (N + 2) bytes an element are moved for 3 N + 1 operations.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from crossbreed.kernels.executors.cuda.launch import Launch, block_for, blocks, load_delta
from crossbreed.kernels.executors.cuda.values import Values
from crossbreed.kernels.programs import Coefficient
from crossbreed.kernels.tensors import as_matrix


@triton.jit
def _sum(out, base, values, coefficients, of_base, size, IS_FULL: tl.constexpr, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    inside = tl.arange(0, BLOCK)
    mask = inside < size - first
    base_B = tl.load(base + first + inside, mask=mask, other=0.0).to(tl.float32)
    total = load_delta(values[0], first, inside, mask, base_B, IS_FULL[0]) * coefficients[0]
    for i in tl.static_range(1, len(IS_FULL)):
        total = total + load_delta(values[i], first, inside, mask, base_B, IS_FULL[i]) * coefficients[i]
    tl.store(out + first + inside, total + base_B * of_base, mask=mask)


@triton.jit
def _coefficient(given, row, columns, mask, KIND: tl.constexpr):
    if KIND == "row":
        coefficient = tl.load(given + row)
    elif KIND == "column":
        coefficient = tl.load(given + columns, mask=mask, other=0.0)
    else:
        coefficient = given
    return coefficient


@triton.jit
def _sum_by_vectors(
    out,
    base,
    values,
    coefficients,
    of_base,
    num_columns,
    IS_FULL: tl.constexpr,
    KINDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program has some columns of one row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < num_columns
    first = row * num_columns
    base_B = tl.load(base + first + columns, mask=mask, other=0.0).to(tl.float32)
    total = load_delta(values[0], first, columns, mask, base_B, IS_FULL[0])
    total = total * _coefficient(coefficients[0], row, columns, mask, KINDS[0])
    for i in tl.static_range(1, len(IS_FULL)):
        delta = load_delta(values[i], first, columns, mask, base_B, IS_FULL[i])
        total = total + delta * _coefficient(coefficients[i], row, columns, mask, KINDS[i])
    tl.store(out + first + columns, total + base_B * of_base, mask=mask)


def linear(
    base: torch.Tensor, values: Values, coefficients: Sequence[Coefficient], of_base: float, out: torch.Tensor
) -> Launch:
    """Returns the launch that writes of_base * base + sum of coefficients times deltas, rounded once, to `out`."""
    block = block_for(len(coefficients))
    if not any(isinstance(c, torch.Tensor) for c in coefficients):
        return Launch(
            kernel=_sum,
            grid=blocks(base.numel(), block),
            out=out,
            arguments=(base, values.tensors, tuple(map(float, coefficients)), of_base, base.numel()),
            constants={"IS_FULL": values.is_full, "BLOCK": block},
        )
    num_rows, num_columns = as_matrix(base).shape
    block = min(block, triton.next_power_of_2(num_columns))
    return Launch(
        kernel=_sum_by_vectors,
        grid=(num_rows, triton.cdiv(num_columns, block)),
        out=out,
        arguments=(base, values.tensors, tuple(_on(base, c) for c in coefficients), of_base, num_columns),
        constants={"IS_FULL": values.is_full, "KINDS": tuple(map(_kind, coefficients)), "BLOCK": block},
    )


def _kind(coefficient: Coefficient) -> str:
    if not isinstance(coefficient, torch.Tensor):
        return "number"
    return "row" if coefficient.shape[1] == 1 else "column"


def _on(base: torch.Tensor, coefficient: Coefficient) -> Coefficient:
    return coefficient.to(base.device).contiguous() if isinstance(coefficient, torch.Tensor) else float(coefficient)
