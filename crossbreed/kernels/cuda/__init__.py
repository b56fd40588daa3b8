"""Runs programs on a CUDA device: the same Programs as `crossbreed.kernels.execute`, to the same fp32 values.

Kernels are Triton's and are compiled when they are first used, a second each, into Triton's own cache. Only this
package imports triton, and nothing imports this package before a tensor is on a CUDA device. Functions of elements that
an operator brings along (`Elementwise`) run in torch, block by block.
"""

from collections.abc import Sequence

import torch

from crossbreed.kernels.cuda.election import elect
from crossbreed.kernels.cuda.gram import gram
from crossbreed.kernels.cuda.linear import linear
from crossbreed.kernels.cuda.ratio import ratio
from crossbreed.kernels.cuda.values import Values, stacked
from crossbreed.kernels.programs import Affine, Dense, Election, Elementwise, Program
from crossbreed.kernels.tensors import Parent, as_matrix, row_blocks
from crossbreed.sources import LowRank

__all__ = ["average", "execute", "gram"]

_AT_ONCE = 1 << 24
"""Elements in a block of torch's functions: 64 MiB in fp32 for each expert and temporary."""


def execute(program: Program, base: torch.Tensor, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
    """Returns the merged tensor in `dtype`: fp32 arithmetic, one rounding. The base's own where nothing changes it.

    Args:
        program: What to compute; full experts are best on the base's device already (see `stream`).
        base: The base's tensor, on a CUDA device.
        dtype: Of the result.
        out: Where to write it (an engine's own memory, say), contiguous; None: new memory.
    """
    same = _unchanged(program, base)
    if same is not None:
        return same.to(dtype) if out is None else out.copy_(same)
    base = base.contiguous()
    out = torch.empty(base.shape, dtype=dtype, device=base.device) if out is None else out
    assert (out.shape, out.dtype) == (base.shape, dtype), "an output for another tensor"
    assert out.is_contiguous(), "kernels write elements in a row"
    match program:
        case Affine():
            return _affine(program, base, out)
        case Election():
            return elect(program, base, out).run()
        case Elementwise():
            return _elementwise(program, base, out)
        case Dense():
            values = Values.of((), base.device, deltas=(program.delta,))
            return linear(base, values, (program.factor,), 1.0, out).run()


def average(
    parents: Sequence[Parent],
    importances: Sequence[torch.Tensor],
    coefficients: Sequence[float],
    base: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Returns W0 + sum(ci Fi di) / sum(ci Fi), the Fi in the base's shape: fp32 arithmetic, one rounding."""
    out = torch.empty(base.shape, dtype=dtype, device=base.device)
    return ratio(base.contiguous(), _values(parents, base), importances, coefficients, out).run()


def _values(parents: Sequence[Parent], base: torch.Tensor) -> Values:
    return Values.of([parent.value for parent in parents], base.device)


def _unchanged(program: Program, base: torch.Tensor) -> torch.Tensor | None:
    """The base, or a full expert, where the program says just that."""
    match program:
        case Affine(of_base=1.0):
            shares = [(c, parent.value) for c, parent in program.shares if isinstance(c, torch.Tensor) or c != 0]
            match shares:
                case []:
                    return base
                case [(float() | int() as c, torch.Tensor() as expert)] if c == 1:
                    return expert.to(base.device)
        case Election(voters=()) | Election(scale=0.0) | Elementwise(parents=()) | Elementwise(factor=0.0):
            return base
    return None


def _affine(program: Affine, base: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    shares = [(c, parent.value) for c, parent in program.shares if isinstance(c, torch.Tensor) or c != 0]
    full = [(c, value) for c, value in shares if isinstance(value, torch.Tensor)]
    factors = [(c, value) for c, value in shares if isinstance(value, LowRank)]
    if not shares:
        full = [(0.0, base)]
    deltas = [stacked(factors, base.device)] if factors else []
    values = Values.of([value for _, value in full], base.device, deltas=deltas)
    return linear(base, values, [*(c for c, _ in full), *(1.0 for _ in deltas)], program.of_base, out).run()


def _elementwise(program: Elementwise, base: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    values = _values(program.parents, base)
    base_MN, out_MN = as_matrix(base), as_matrix(out)
    values_MN = [as_matrix(value) for value in values.tensors]
    sides = [side.to(base.device).reshape(base_MN.shape) for side in program.sides]
    numbers = torch.tensor(program.numbers, dtype=torch.float32, device=base.device)
    for rows in row_blocks(base_MN, _AT_ONCE):
        base_KN = base_MN[rows].float()
        deltas = [
            value_MN[rows].float() - base_KN if is_full else value_MN[rows]
            for value_MN, is_full in zip(values_MN, values.is_full, strict=True)
        ]
        added_KN = program.body(base_KN, deltas, [side[rows] for side in sides], numbers)
        out_MN[rows] = base_KN + added_KN * program.factor
    return out
