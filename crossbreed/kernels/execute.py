"""Runs programs in one pass over each tensor: compiled (`native`), or in torch, block by block (`plain`).

Both make the same bits. CUDA tensors go to the `cuda` package.

Shapes: M rows (a Linear's outputs), N columns (its inputs), R stacked ranks, K rows of a block.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, cast

import torch

from crossbreed.errors import InvalidWeights
from crossbreed.kernels import native, plain
from crossbreed.kernels.low_rank import product_in_order
from crossbreed.kernels.programs import (
    CODES,
    Affine,
    Band,
    Chance,
    Coefficient,
    Consensus,
    Dense,
    Election,
    Elementwise,
    Keep,
    Pick,
    Program,
)
from crossbreed.kernels.tensors import Parent, as_matrix, row_blocks
from crossbreed.sources import LowRank


@dataclass(frozen=True, slots=True)
class _Full:
    """An expert's own tensor."""

    value_MN: torch.Tensor

    def delta(self, base_KN: torch.Tensor, rows: slice) -> torch.Tensor:
        return self.value_MN[rows].float() - base_KN

    @property
    def tensors(self) -> native.Tensors:
        return self.value_MN, None, None, None


@dataclass(frozen=True, slots=True)
class _Ready:
    """A delta that somebody has computed."""

    delta_MN: torch.Tensor

    def delta(self, base_KN: torch.Tensor, rows: slice) -> torch.Tensor:
        return self.delta_MN[rows]

    @property
    def tensors(self) -> native.Tensors:
        return None, self.delta_MN, None, None


@dataclass(frozen=True, slots=True)
class _Product:
    """A delta of low rank; scale and, where it can be, coefficient are in B."""

    b_MR: torch.Tensor
    a_RN: torch.Tensor

    def delta(self, base_KN: torch.Tensor, rows: slice) -> torch.Tensor:
        return product_in_order(self.b_MR[rows], self.a_RN)

    @property
    def tensors(self) -> native.Tensors:
        return None, None, self.b_MR, self.a_RN


NOT_FINITE = "the merge holds NaN or Inf"

_Value: TypeAlias = _Full | _Ready | _Product


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """One pass over a tensor: W = of_base W0 + sum(ci di), or, with a consensus, W = W0 + scale * what is elected."""

    values: Sequence[_Value]
    weights: Sequence[Coefficient]
    keeps: Sequence[Keep | None] = field(default=())
    consensus: Consensus | None = None
    pick: Pick = Pick.SUM
    of_base: float = 1.0
    scale: float = 1.0


Waiting: TypeAlias = Callable[[], torch.Tensor]
"""Gives the merged tensor when it is done. Raises InvalidWeights if it holds NaN or Inf."""


def execute(program: Program, base: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns the merged tensor in `dtype`: fp32 arithmetic, one rounding. The base's own where nothing changes it.

    Raises:
        InvalidWeights: it holds NaN or Inf.
    """
    (waiting,) = start([program], base, dtype)
    return waiting()


def start(programs: Sequence[Program], base: torch.Tensor, dtype: torch.dtype) -> list[Waiting]:
    """Starts one tensor's merge, or several that read the same sources: one pass over memory does them all.

    Compiled kernels run on threads of their own, so that the next tensor can be prepared meanwhile.
    """
    if base.is_cuda:
        from crossbreed.kernels import cuda

        return [partial(_checked, cuda.execute(program, base, dtype)) for program in programs]
    passes = [_pass(program, base) for program in programs]
    merges = {
        index: _native(work, torch.empty(base.shape, dtype=dtype))
        for index, work in enumerate(passes)
        if isinstance(work, _Pass) and work.values
    }
    waits = dict(zip(merges, native.start(as_matrix(base), list(merges.values())), strict=True))

    def waiting(index: int) -> torch.Tensor:
        work = passes[index]
        if isinstance(work, torch.Tensor):
            return _checked(work.to(dtype)) if work.dtype != dtype else work
        if isinstance(work, Elementwise):
            return _checked(_elementwise(work, base, dtype))
        if (wait := waits.get(index)) is None:
            return _checked(_plain(work, base, dtype))
        if not wait():
            raise InvalidWeights(NOT_FINITE)
        merged_MN = merges[index].merged_MN
        return merged_MN if base.ndim == 2 else merged_MN.view(base.shape)

    return [partial(waiting, index) for index in range(len(programs))]


def _checked(merged: torch.Tensor) -> torch.Tensor:
    """One pass without a copy: both extremes are NaN as soon as one element is."""
    if merged.numel() and not all(math.isfinite(extreme.item()) for extreme in merged.aminmax()):
        raise InvalidWeights(NOT_FINITE)
    return merged


def _pass(program: Program, base: torch.Tensor) -> "torch.Tensor | _Pass | Elementwise":
    """What is to be done, or what it comes to: the base or an expert."""
    match program:
        case Affine():
            same = _unchanged(program, base)
            return _affine(program) if same is None else same
        case Election():
            return _election(program) if program.voters and program.scale else base
        case Elementwise():
            return program if program.parents and program.factor else base
        case Dense():
            return _Pass(values=[_Ready(as_matrix(program.delta.contiguous()))], weights=[program.factor])


def _unchanged(program: Affine, base: torch.Tensor) -> torch.Tensor | None:
    """The base, or a full expert, where the program says just that."""
    shares = [(c, parent) for c, parent in program.shares if isinstance(c, torch.Tensor) or c != 0]
    if program.of_base != 1 or len(shares) > 1:
        return None
    if not shares:
        return base
    ((c, parent),) = shares
    is_it = not isinstance(c, torch.Tensor) and c == 1 and isinstance(parent.value, torch.Tensor)
    return cast(torch.Tensor, parent.value) if is_it else None


def _affine(program: Affine) -> _Pass:
    shares = [(c, parent) for c, parent in program.shares if isinstance(c, torch.Tensor) or c != 0]
    full = [(c, _value(parent)) for c, parent in shares if isinstance(parent.value, torch.Tensor)]
    factors = [(c, parent.value) for c, parent in shares if isinstance(parent.value, LowRank)]
    pairs = [*full, (1.0, _stacked(factors))] if factors else full
    return _Pass(values=[value for _, value in pairs], weights=[c for c, _ in pairs], of_base=program.of_base)


def _stacked(factors: Sequence[tuple[Coefficient, LowRank]]) -> _Product:
    """All adapters at once: [c1 s1 B1 ... cn sn Bn] [A1; ...; An]."""
    by_columns = [isinstance(c, torch.Tensor) and c.shape[0] == 1 for c, _ in factors]
    pairs = list(zip(factors, by_columns, strict=True))
    b_MR = [low.scale * low.b_MR if columns else c * low.scale * low.b_MR for (c, low), columns in pairs]
    a_RN = [low.a_RN * c if columns else low.a_RN for (c, low), columns in pairs]
    return _Product(torch.cat(b_MR, dim=1), torch.cat(a_RN))


def _election(program: Election) -> _Pass:
    return _Pass(
        values=[_value(voter.parent) for voter in program.voters],
        weights=[voter.weight for voter in program.voters],
        keeps=[voter.keep for voter in program.voters],
        consensus=program.consensus,
        pick=program.pick,
        scale=program.scale,
    )


def _value(parent: Parent) -> _Value:
    if isinstance(parent.value, torch.Tensor):
        return _Full(as_matrix(parent.value))
    low = parent.value
    return _Product((low.scale * low.b_MR).contiguous(), low.a_RN.contiguous())


def _native(work: _Pass, merged: torch.Tensor) -> native.Merge:
    keeps = work.keeps or [None] * len(work.values)
    return native.Merge(
        merged_MN=as_matrix(merged),
        operands=[_operand(*voter) for voter in zip(work.values, work.weights, keeps, strict=True)],
        consensus="affine" if work.consensus is None else work.consensus.value,
        pick=work.pick.value,
        of_base=work.of_base,
        scale=work.scale,
    )


def _plain(work: _Pass, base: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    merged = torch.empty(base.shape, dtype=dtype)
    merged_MN, base_MN = as_matrix(merged), as_matrix(base)
    keeps = work.keeps or [None] * len(work.values)
    for rows in row_blocks(merged_MN):
        base_KN, first = base_MN[rows].float(), rows.start * base_MN.shape[1]
        deltas = [
            plain.thin(value.delta(base_KN, rows), keep, rows, first)
            for value, keep in zip(work.values, keeps, strict=True)
        ]
        votes = plain.weigh(deltas, [_of_rows(weight, rows, len(merged_MN)) for weight in work.weights])
        if work.consensus is None:
            merged_MN[rows] = plain.add([*votes, base_KN * work.of_base])
        else:
            weights = cast(Sequence[float], work.weights)
            merged_MN[rows] = base_KN + plain.elect(votes, weights, work.consensus, work.pick) * work.scale
    return merged


def _of_rows(weight: Coefficient, rows: slice, num_rows: int) -> Coefficient:
    is_column = isinstance(weight, torch.Tensor) and weight.shape[0] == num_rows and weight.shape[1] == 1
    return cast(torch.Tensor, weight)[rows] if is_column else weight


def _operand(value: _Value, weight: Coefficient, keep: Keep | None) -> native.Operand:
    return native.Operand(*value.tensors, *_weights(weight), _kept(keep))


def _weights(weight: Coefficient) -> native.Weights:
    if not isinstance(weight, torch.Tensor) or weight.numel() == 1:
        return float(weight), None, None
    if weight.shape[1] == 1:
        return 1.0, weight.float().contiguous(), None
    return 1.0, None, weight.float().contiguous()


def _kept(keep: Keep | None) -> native.Kept:
    match keep:
        case None:
            return native.Kept()
        case Band(low=low, high=high):
            if high is None:
                return native.Kept("low", (low.magnitude, 0.0), (low.end, 0))
            return native.Kept("band", (low.magnitude, high.magnitude), (low.end, high.end))
        case Chance(ranks=None, rescale=rescale):
            numbers = keep.density * CODES, 1 / keep.density if rescale else 1.0
            return native.Kept("chance", numbers, (0, 0), keep.key, keep.codes)
        case Chance(ranks=ranks, rescale=rescale):
            name = "ranked_rescaled" if rescale else "ranked"
            return native.Kept(name, (keep.least, keep.slope), (0, 0), keep.key, keep.codes, ranks)


def _elementwise(program: Elementwise, base: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Plain torch, in blocks; the programs that a search runs most are compiled."""
    merged = torch.empty(base.shape, dtype=dtype)
    merged_MN, base_MN = as_matrix(merged), as_matrix(base)
    values = [_value(parent) for parent in program.parents]
    sides = [side.reshape(base_MN.shape) for side in program.sides]
    numbers = torch.tensor(program.numbers, dtype=torch.float32)
    for rows in row_blocks(merged_MN):
        base_KN = base_MN[rows].float()
        deltas = [value.delta(base_KN, rows) for value in values]
        added_KN = program.body(base_KN, deltas, [side[rows] for side in sides], numbers)
        merged_MN[rows] = base_KN + added_KN * program.factor
    return merged
