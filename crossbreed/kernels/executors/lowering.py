"""A program and a base's tensor become work for an executor: here, once, wherever the tensor is.

What a program comes to is decided here and nowhere else: whether its result is a tensor that exists already, which
experts take part, how adapters are put together, which masks thin out. An executor is left with loops.

Shapes: M rows (a Linear's outputs), N columns (its inputs), R stacked ranks, K rows of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from crossbreed.kernels.linalg.low_rank import low_rank_product_in_order
from crossbreed.kernels.masks import Mask
from crossbreed.kernels.masks import lower as lower_mask
from crossbreed.kernels.programs import (
    Affine,
    Body,
    Coefficient,
    Consensus,
    Dense,
    Election,
    Elementwise,
    Pick,
    Program,
)
from crossbreed.kernels.tensors import ExpertTensor, as_matrix
from crossbreed.sources import LowRank


@dataclass(frozen=True, slots=True)
class Full:
    """An expert's own tensor: its delta is what it has more than the base."""

    value_MN: torch.Tensor

    def delta(self, base_KN: torch.Tensor, rows: slice) -> torch.Tensor:
        """Returns the fp32 delta of some rows from the base's, in fp32."""
        return self.value_MN[rows].float() - base_KN


@dataclass(frozen=True, slots=True)
class Delta:
    """A delta that is there whole, in fp32."""

    delta_MN: torch.Tensor

    def delta(self, base_KN: torch.Tensor, rows: slice) -> torch.Tensor:
        """Returns some rows."""
        return self.delta_MN[rows]


@dataclass(frozen=True, slots=True)
class Product:
    """A delta of low rank, in fp32; scale and, where it can be, coefficient are in B."""

    b_MR: torch.Tensor
    a_RN: torch.Tensor

    def delta(self, base_KN: torch.Tensor, rows: slice) -> torch.Tensor:
        """Returns some rows of B A."""
        return low_rank_product_in_order(self.b_MR[rows], self.a_RN)


Value: TypeAlias = Full | Delta | Product
"""What a delta is made from."""


@dataclass(frozen=True, slots=True)
class Same:
    """The result is a tensor that exists: the base's, or an expert's."""

    tensor: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass over a tensor: W = of_base W0 + sum(ci di); or, with a consensus, W = W0 + scale * what is elected."""

    values: Sequence[Value]
    weights: Sequence[Coefficient]
    """One for each value; numbers, where there is a consensus."""
    masks: Sequence[Mask]
    """One for each value."""
    consensus: Consensus | None = None
    pick: Pick = Pick.SUM
    of_base: float = 1.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """W = W0 + factor * body(W0, deltas, sides, numbers)."""

    body: Body
    values: Sequence[Value]
    sides_MN: Sequence[torch.Tensor]
    numbers: tuple[float, ...]
    factor: float


Computed: TypeAlias = Pass | Apply
Work: TypeAlias = Same | Computed
_ALL = Mask()


def lower(program: Program, base: torch.Tensor) -> Work:
    """Returns what is to be done for a tensor of the base."""
    match program:
        case Affine():
            return _affine(program, base)
        case Election():
            return _election(program) if program.voters and program.scale else Same(base)
        case Elementwise():
            return _elementwise(program, base) if program.experts and program.factor else Same(base)
        case Dense():
            delta = Delta(as_matrix(program.delta.contiguous()))
            return Pass(values=[delta], weights=[program.factor], masks=[_ALL])


def _affine(program: Affine, base: torch.Tensor) -> Same | Pass:
    shares = [(c, expert.value) for c, expert in program.shares if isinstance(c, torch.Tensor) or c != 0]
    if program.of_base == 1 and not shares:
        return Same(base)
    if program.of_base == 1 and len(shares) == 1:
        ((c, value),) = shares
        if isinstance(value, torch.Tensor) and not isinstance(c, torch.Tensor) and c == 1:
            return Same(value.to(base.device))
    full = [(c, Full(as_matrix(value))) for c, value in shares if isinstance(value, torch.Tensor)]
    factors = [(c, value) for c, value in shares if isinstance(value, LowRank)]
    pairs: list[tuple[Coefficient, Value]] = [*full, (1.0, _stacked(factors, base.device))] if factors else [*full]
    return Pass(
        values=[value for _, value in pairs],
        weights=[c for c, _ in pairs],
        masks=[_ALL] * len(pairs),
        of_base=program.of_base,
    )


def _stacked(factors: Sequence[tuple[Coefficient, LowRank]], device: torch.device) -> Product:
    """All adapters at once: [c1 s1 B1 ... cn sn Bn] [A1; ...; An]."""
    left, right = [], []
    for given, low in factors:
        c = given.to(device) if isinstance(given, torch.Tensor) else given
        b_MR, a_RN = low.b_MR.to(device), low.a_RN.to(device)
        by_columns = isinstance(c, torch.Tensor) and c.shape[0] == 1
        left.append(low.scale * b_MR if by_columns else c * low.scale * b_MR)
        right.append(a_RN * c if by_columns else a_RN)
    return Product(torch.cat(left, dim=1), torch.cat(right))


def _election(program: Election) -> Pass:
    return Pass(
        values=[value_of(voter.expert) for voter in program.voters],
        weights=[voter.weight for voter in program.voters],
        masks=[lower_mask(voter.keep) for voter in program.voters],
        consensus=program.consensus,
        pick=program.pick,
        scale=program.scale,
    )


def _elementwise(program: Elementwise, base: torch.Tensor) -> Apply:
    shape_MN = as_matrix(base).shape
    return Apply(
        body=program.body,
        values=[value_of(expert) for expert in program.experts],
        sides_MN=[side.to(base.device).reshape(shape_MN) for side in program.sides],
        numbers=program.numbers,
        factor=program.factor,
    )


def value_of(expert: ExpertTensor) -> Value:
    """Returns what an expert's delta is made from."""
    if isinstance(expert.value, torch.Tensor):
        return Full(as_matrix(expert.value))
    low = expert.value
    return Product((low.scale * low.b_MR).contiguous(), low.a_RN.contiguous())
