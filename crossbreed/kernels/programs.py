"""What merging one tensor comes down to. Operators choose one of these; `execute` knows how to run them fast.

With W0 the base, di the fp32 delta of expert i (its weights less the base's, or scale x B A of an adapter):

`Affine`       W = c0 W0 + sum(ci di); coefficients are numbers, or one number a row or a column
`Election`     deltas are thinned out, weighted, and summed where they agree on a sign
`Elementwise`  any other function of the elements of the base and the deltas
`Dense`        W = W0 + a delta that somebody has computed whole

All four can be `scaled`: W0 + factor (W - W0), which is how a depth profile (LiNeS) applies to any operator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, TypeAlias

import torch

from crossbreed.kernels.tensors import Parent, Parents
from crossbreed.types import Rule

Coefficient: TypeAlias = float | torch.Tensor
"""A number; or fp32 [M, 1], one for each row of the tensor as a matrix; or fp32 [1, N], one for each column."""
Share: TypeAlias = tuple[Coefficient, Parent]

CODES = 1 << 16
"""Levels of a random number: densities are told apart down to 1 in 65,536."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """W = of_base W0 + sum(ci di)."""

    shares: tuple[Share, ...]
    of_base: float = 1.0

    def scaled(self, factor: float) -> "Affine":
        """Returns W0 + factor (W - W0)."""
        shares = tuple((factor * c, parent) for c, parent in self.shares)
        return Affine(shares=shares, of_base=1 + factor * (self.of_base - 1))


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the largest elements of a delta end: those above `magnitude`, and those equal to it before `end`."""

    magnitude: float
    end: int
    """Flat index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Keeps the elements inside the cut `low` and, if there is one, outside the (smaller) cut `high`."""

    low: Cut
    high: Cut | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """Keeps each element with a probability, and divides what is kept by it if `rescale`.

    The probability is `density`, or runs from density - spread to density + spread along `ranks`.
    """

    key: tuple[int, int]
    """Of the Philox stream that gives each element a random number below CODES."""
    density: float
    rescale: bool
    codes: torch.Tensor | None = None
    """Those numbers as uint16 [n]; None: they are drawn where they are needed."""
    ranks: torch.Tensor | None = None
    """[n] uint8: where in its row an element's magnitude stands, from 0 to 255."""
    spread: float = 0.0

    @property
    def least(self) -> float:
        """The number below which an element of rank 0 is kept ..."""
        return (self.density - self.spread) * CODES

    @property
    def slope(self) -> float:
        """... and what each rank adds to it."""
        return 2 * self.spread * CODES / 255


Keep: TypeAlias = Band | Chance


class Consensus(StrEnum):
    """Who decides an element's sign."""

    NONE = "none"
    SUM = "sum"
    """The sum of what was kept, weighted; a sum of 0 elects plus."""
    COUNT = "count"
    """The majority of signs of what was kept, weighted; a draw elects plus."""


class Pick(StrEnum):
    """What becomes of those who agree."""

    MEAN = "mean"
    """Their sum, divided by the sum of their weights; by 1 where that is 0."""
    SUM = "sum"
    MAX = "max"
    """The one with the largest magnitude."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voter:
    """An expert in an election."""

    parent: Parent
    weight: float
    keep: Keep | None = None
    """None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """W = W0 + scale * pick of the weighted, thinned deltas that agree."""

    voters: tuple[Voter, ...]
    """In an order that names and positions do not change."""
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
    parents: tuple[Parent, ...]
    sides: tuple[torch.Tensor, ...] = ()
    """Facts with one value for each element, flat or in the tensor's shape."""
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

    def __call__(self, parents: Parents, rule: Rule, /) -> Program:
        """Returns what is to be computed. Pure, but for the facts that it looks up.

        Raises:
            InvalidWeights: the parameters mean nothing for this tensor.
        """
        ...
