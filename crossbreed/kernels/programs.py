"""What merging one tensor comes down to. Operators choose one of these; `executors` run them fast.

With W0 the base, di the fp32 delta of expert i (its weights less the base's, or scale x B A of an adapter):

`Affine`       W = c0 W0 + sum(ci di); coefficients are numbers, or one number a row or a column
`Election`     deltas are thinned out, weighted, and summed where they agree on a sign
`Elementwise`  any other function of the elements of the base and the deltas
`Dense`        W = W0 + a delta that the operator has computed whole

All four can be `scaled`: W0 + factor (W - W0), which is how a depth profile (LiNeS) applies to any operator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, TypeAlias

import torch

from crossbreed.kernels.masks import Keep
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.types import Rule

Coefficient: TypeAlias = float | torch.Tensor
"""A number; or fp32 [M, 1], one for each row of the tensor as a matrix; or fp32 [1, N], one for each column."""
Share: TypeAlias = tuple[Coefficient, ExpertTensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """W = of_base W0 + sum(ci di)."""

    shares: tuple[Share, ...]
    of_base: float = 1.0

    def scaled(self, factor: float) -> "Affine":
        """Returns W0 + factor (W - W0)."""
        shares = tuple((factor * c, expert) for c, expert in self.shares)
        return Affine(shares=shares, of_base=1 + factor * (self.of_base - 1))


class Consensus(StrEnum):
    """What decides an element's sign."""

    NONE = "none"
    SUM = "sum"
    """The sum of what was kept, weighted; a sum of 0 elects plus."""
    COUNT = "count"
    """The majority of signs of what was kept, weighted; a draw elects plus."""


class Pick(StrEnum):
    """What is merged of the deltas that agree."""

    MEAN = "mean"
    """Their sum, divided by the sum of their weights; by 1 where that is 0."""
    SUM = "sum"
    MAX = "max"
    """The one with the largest magnitude."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voter:
    """An expert in an election."""

    expert: ExpertTensor
    weight: float
    keep: Keep | None = None
    """None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """W = W0 + scale * pick of the weighted, thinned deltas that agree."""

    voters: tuple[Voter, ...]
    """In an order that neither names nor positions of the sources change."""
    scale: float
    consensus: Consensus
    pick: Pick

    def scaled(self, factor: float) -> "Election":
        """Returns W0 + factor (W - W0)."""
        return replace(self, scale=self.scale * factor)


Body: TypeAlias = Callable[[torch.Tensor, Sequence[torch.Tensor], Sequence[torch.Tensor], torch.Tensor], torch.Tensor]
"""(base, deltas, side inputs, numbers) -> what is added to the base; all fp32 but the side inputs. Pure torch functions
of elements. NaN in a delta must reach the result: masks are products, not choices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise:
    """W = W0 + factor * body(W0, deltas, sides, numbers)."""

    body: Body
    experts: tuple[ExpertTensor, ...]
    sides: tuple[torch.Tensor, ...] = ()
    """Tensors with one value for each element, flat or in the tensor's shape."""
    numbers: tuple[float, ...] = ()
    factor: float = 1.0

    def scaled(self, factor: float) -> "Elementwise":
        """Returns W0 + factor (W - W0)."""
        return replace(self, factor=self.factor * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """W = W0 + factor * delta."""

    delta: torch.Tensor
    """fp32, in the tensor's shape."""
    factor: float = 1.0

    def scaled(self, factor: float) -> "Dense":
        """Returns W0 + factor (W - W0)."""
        return replace(self, factor=self.factor * factor)


Program: TypeAlias = Affine | Election | Elementwise | Dense


class Operator(Protocol):
    """The arithmetic of an operator, on one tensor."""

    def __call__(self, inputs: TensorInputs, rule: Rule, /) -> Program:
        """Returns what is to be computed. Pure, but for the values that it looks up in the cache.

        Raises:
            InvalidWeights: the parameters mean nothing for this tensor.
        """
        ...
