"""Runs programs on CPU, in one pass over each tensor.

It is compiled where there is a C++ compiler; where there is none, it goes through blocks that stay in a core's cache.
Both run the same torch functions and make the same bits.

Shapes: M rows (a Linear's outputs), N columns (its inputs), R stacked ranks, K rows of a block.
"""

import os
import shutil
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any, TypeAlias

import torch

from crossbreed.kernels import bodies
from crossbreed.kernels.programs import (
    CODES,
    Affine,
    Band,
    Chance,
    Dense,
    Election,
    Elementwise,
    Program,
    Voter,
)
from crossbreed.kernels.tensors import Parent, as_matrix, row_blocks
from crossbreed.sources import LowRank

Value: TypeAlias = torch.Tensor | Callable[[slice], torch.Tensor]
"""What a delta is made from: an expert's [M, N], from which the base is subtracted; or some rows' fp32 delta, made when
asked for."""
Do: TypeAlias = tuple[Callable[..., torch.Tensor], *tuple[Hashable, ...]]
"""A function of `bodies` and what is fixed in it: it is compiled once for each."""

_SMALL = 1 << 15
"""Elements below which entering a compiled kernel costs more than it saves."""
_COMPILED_BLOCK = 1 << 20
"""Elements that a compiled kernel is given at a time where deltas are made block by block."""


def has_compiler() -> bool:
    """Whether kernels are compiled on this machine; CROSSBREED_COMPILE=0 says no."""
    found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    return found is not None and os.environ.get("CROSSBREED_COMPILE") != "0"


def execute(program: Program, base: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns the merged tensor in `dtype`: fp32 arithmetic, one rounding. The base's own where nothing changes it."""
    match program:
        case Affine():
            same = _unchanged(program, base)
            return _affine(program, base, dtype) if same is None else same.to(dtype)
        case Election():
            return _election(program, base, dtype) if program.voters and program.scale else base.to(dtype)
        case Elementwise():
            return _elementwise(program, base, dtype) if program.parents and program.factor else base.to(dtype)
        case Dense():
            delta_MN, numbers = as_matrix(program.delta), _fp32([program.factor, 1.0])
            return _merge(base, dtype, [lambda rows: delta_MN[rows]], numbers, do=(bodies.affine,))


def _unchanged(program: Affine, base: torch.Tensor) -> torch.Tensor | None:
    """The base, or a full expert, where the program says just that."""
    shares = [(c, parent) for c, parent in program.shares if isinstance(c, torch.Tensor) or c != 0]
    if program.of_base != 1 or len(shares) > 1:
        return None
    if not shares:
        return base
    ((c, parent),) = shares
    is_it = not isinstance(c, torch.Tensor) and c == 1 and isinstance(parent.value, torch.Tensor)
    return parent.value if is_it and isinstance(parent.value, torch.Tensor) else None


def _affine(program: Affine, base: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    shares = [(c, parent.value) for c, parent in program.shares if isinstance(c, torch.Tensor) or c != 0]
    values: list[Value] = [value for _, value in shares if isinstance(value, torch.Tensor)]
    coefficients = [c for c, value in shares if isinstance(value, torch.Tensor)]
    if factors := [(c, value) for c, value in shares if isinstance(value, LowRank)]:
        values, coefficients = [*values, _product(factors)], [*coefficients, 1.0]
    if not values:
        values, coefficients = [base], [0.0]
    if any(isinstance(c, torch.Tensor) for c in coefficients):
        vectors = [c if isinstance(c, torch.Tensor) else torch.full((1, 1), c) for c in coefficients]
        return _merge(
            base, dtype, values, _fp32([program.of_base]), do=(bodies.affine_by_vectors,), sides=vectors, flat=False
        )
    numbers = _fp32([*(float(c) for c in coefficients), program.of_base])
    return _merge(base, dtype, values, numbers, do=(bodies.affine,))


def _product(factors: Sequence[tuple[Any, LowRank]]) -> Callable[[slice], torch.Tensor]:
    """All adapters at once: [c1 s1 B1 ... cn sn Bn] [A1; ...; An]."""
    by_columns = [isinstance(c, torch.Tensor) and c.shape[0] == 1 for c, _ in factors]
    pairs = list(zip(factors, by_columns, strict=True))
    b_MR = torch.cat([low.scale * low.b_MR if columns else c * low.scale * low.b_MR for (c, low), columns in pairs], 1)
    a_RN = torch.cat([low.a_RN * c if columns else low.a_RN for (c, low), columns in pairs])
    return lambda rows: b_MR[rows] @ a_RN


def _election(program: Election, base: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    keeps = tuple(_kind(voter) for voter in program.voters)
    ends = [end for voter in program.voters for end in _ends(voter)]
    return _merge(
        base,
        dtype,
        [_value(voter.parent) for voter in program.voters],
        _fp32([*(number for voter in program.voters for number in _numbers(voter)), program.scale]),
        do=(bodies.election, keeps, program.consensus, program.pick),
        sides=[side for voter in program.voters for side in _sides(voter)],
        ends=torch.tensor(ends, dtype=torch.int64) if ends else None,
    )


def _elementwise(program: Elementwise, base: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return _merge(
        base,
        dtype,
        [_value(parent) for parent in program.parents],
        _fp32([*program.numbers, program.factor]),
        do=(bodies.elementwise, program.body),
        sides=program.sides,
        flat=not program.by_rows,
    )


def _merge(
    base: torch.Tensor,
    dtype: torch.dtype,
    values: Sequence[Value],
    numbers: torch.Tensor,
    *,
    do: Do,
    sides: Sequence[torch.Tensor] = (),
    ends: torch.Tensor | None = None,
    flat: bool = True,
) -> torch.Tensor:
    """Walks a tensor once.

    Args:
        base: The base's tensor.
        dtype: Of the result.
        values: What each delta is made from.
        numbers: fp32, for the arithmetic.
        do: The arithmetic.
        sides: Other inputs; as long as the tensor, or [M, 1], or [1, N].
        ends: Flat indices at which cuts end.
        flat: The arithmetic does not know rows from columns.
    """
    merged = torch.empty(base.shape, dtype=dtype)
    merged_MN, base_MN = as_matrix(merged), as_matrix(base)
    num_rows, num_columns = base_MN.shape
    values = [as_matrix(value) if isinstance(value, torch.Tensor) else value for value in values]
    sides = [side if flat is False and side.ndim == 2 else side.reshape(num_rows, num_columns) for side in sides]
    is_compiled = has_compiler() and base.numel() >= _SMALL
    kernel = (_compiled if is_compiled else _plain)(do, tuple(isinstance(v, torch.Tensor) for v in values), flat)
    at_once = base.numel() if is_compiled and all(isinstance(v, torch.Tensor) for v in values) else _COMPILED_BLOCK
    for rows in row_blocks(merged_MN, at_once if is_compiled else None):
        first = torch.tensor(rows.start * num_columns) if ends is not None else None
        kernel(
            merged_MN[rows],
            base_MN[rows],
            [value[rows] if isinstance(value, torch.Tensor) else value(rows) for value in values],
            [side[rows] if side.shape[0] == num_rows else side for side in sides],
            numbers,
            ends,
            first,
        )
    return merged


def _kernel(do: Do, is_full: tuple[bool, ...]) -> Callable[..., None]:
    arithmetic, *options = do

    def kernel(
        merged_KN: torch.Tensor,
        base_KN: torch.Tensor,
        values_KN: Sequence[torch.Tensor],
        sides: Sequence[torch.Tensor],
        numbers: torch.Tensor,
        ends: torch.Tensor | None,
        first: torch.Tensor | None,
    ) -> None:
        base = base_KN.to(torch.float32)
        deltas = [v.to(torch.float32) - base if full else v for full, v in zip(is_full, values_KN, strict=True)]
        index = None if first is None else torch.arange(base.numel()) + first
        merged_KN.copy_(arithmetic(base, deltas, sides, numbers, ends, index, *options))

    return kernel


@cache
def _plain(do: Do, is_full: tuple[bool, ...], flat: bool) -> Callable[..., None]:
    kernel = _kernel(do, is_full)
    return _flattened(kernel) if flat else kernel


@cache
def _compiled(do: Do, is_full: tuple[bool, ...], flat: bool) -> Callable[..., None]:
    kernel = torch.compile(_kernel(do, is_full), dynamic=True, fullgraph=True)
    return _flattened(kernel) if flat else kernel


def _flattened(kernel: Callable[..., None]) -> Callable[..., None]:
    """Elements in a row: one compiled kernel for tensors of all shapes."""

    def flat(merged: Any, base: Any, values: Any, sides: Any, *more: Any) -> None:
        kernel(
            merged.view(-1), base.reshape(-1), [v.reshape(-1) for v in values], [s.reshape(-1) for s in sides], *more
        )

    return flat


def _value(parent: Parent) -> Value:
    if isinstance(parent.value, torch.Tensor):
        return parent.value
    low = parent.value
    return lambda rows: (low.scale * low.b_MR[rows]) @ low.a_RN


def _kind(voter: Voter) -> bodies.KeepKind:
    match voter.keep:
        case None:
            return "all"
        case Band(high=None):
            return "low"
        case Band():
            return "band"
        case Chance(ranks=None):
            return "chance"
        case Chance():
            return "ranked"


def _numbers(voter: Voter) -> Sequence[float]:
    match voter.keep:
        case None:
            return (voter.weight,)
        case Band(low=low, high=None):
            return voter.weight, low.magnitude
        case Band(low=low, high=high):
            return voter.weight, low.magnitude, high.magnitude
        case Chance(density=density, rescale=rescale, ranks=None):
            return voter.weight, density * CODES, 1 / density if rescale else 1.0
        case Chance(density=density, spread=spread, rescale=rescale):
            return voter.weight, (density - spread) * CODES, 2 * spread * CODES / 255, float(rescale)


def _ends(voter: Voter) -> Sequence[int]:
    match voter.keep:
        case Band(low=low, high=None):
            return (low.end,)
        case Band(low=low, high=high):
            return low.end, high.end
    return ()


def _sides(voter: Voter) -> Sequence[torch.Tensor]:
    match voter.keep:
        case Chance(codes=codes, ranks=None):
            return tuple(codes())
        case Chance(codes=codes, ranks=ranks):
            return *codes(), ranks
    return ()


def _fp32(numbers: Sequence[float]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32)
