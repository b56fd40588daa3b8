"""Inner products of all pairs of deltas, in one pass over the experts.

A program reads one block and leaves its N (N + 1) / 2 sums; torch adds those of all blocks, always in the same order,
so their bits are the same every time. Products of two fp32 numbers are exact in fp64, where they are summed: angles
between nearly parallel deltas are differences of almost equal numbers.
"""

from collections.abc import Sequence
from typing import no_type_check

import torch
import triton
import triton.language as tl

from crossbreed.kernels.executors.cuda.launch import Launch, block_for, blocks, load_delta
from crossbreed.kernels.executors.cuda.values import Values
from crossbreed.kernels.executors.lowering import value_of
from crossbreed.kernels.tensors import ExpertTensor


@triton.jit
@no_type_check
def _inner_products(out, base, values, size, IS_FULL: tl.constexpr, BLOCK: tl.constexpr):
    block = tl.program_id(0).to(tl.int64)
    first = block * BLOCK
    inside = tl.arange(0, BLOCK)
    mask = inside < size - first
    base_B = tl.load(base + first + inside, mask=mask, other=0.0).to(tl.float32)
    deltas = ()
    for i in tl.static_range(len(IS_FULL)):
        delta = load_delta(values[i], first, inside, mask, base_B, IS_FULL[i]).to(tl.float64)
        deltas = deltas + (delta,)  # noqa: RUF005 - Triton does not unpack
    sums = out + block * (len(IS_FULL) * (len(IS_FULL) + 1) // 2)
    for i in tl.static_range(len(IS_FULL)):
        for j in tl.static_range(i + 1):
            tl.store(sums + (i * (i + 1) // 2 + j), tl.sum(deltas[i] * deltas[j], axis=0))


def inner_products(base: torch.Tensor, values: Values) -> Launch:
    """Returns the launch that writes each block's sums, in the order of a lower triangle."""
    num_values = len(values.tensors)
    block = block_for(num_values)
    grid = blocks(base.numel(), block)
    num_pairs = num_values * (num_values + 1) // 2
    return Launch(
        kernel=_inner_products,
        grid=grid,
        out=torch.empty((*grid, num_pairs), dtype=torch.float64, device=base.device),
        arguments=(base, values.tensors, base.numel()),
        constants={"IS_FULL": values.is_full, "BLOCK": block},
    )


def inner_products_of(experts: Sequence[ExpertTensor], base: torch.Tensor) -> torch.Tensor:
    """Returns <di, dj> for all pairs of experts: fp64 [N, N], on the base's device."""
    values = Values.of([value_of(expert) for expert in experts], base.device)
    sums = inner_products(base.contiguous(), values).run().sum(0)
    lower = torch.zeros((len(experts), len(experts)), dtype=torch.float64, device=base.device)
    rows, columns = torch.tril_indices(len(experts), len(experts), device=base.device)
    lower[rows, columns] = sums
    return lower + lower.tril(-1).T
