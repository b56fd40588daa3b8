"""Least squares on matrices: one eigendecomposition, then any regularisation costs a diagonal and one product.

A merged delta T should do to each expert's inputs what the expert's own delta Ti does to them. With Gi the Gram of
those inputs (their mean x x^T), that is to minimise sum(wi tr((T - Ti) Gi (T - Ti)^T)): to solve T C = D, where
C = sum(wi Gi) and D = sum(wi Ti Gi). With the eigenvectors C = Q diag(c) Q^T, each direction can go a part f of its own
of the way from an anchor A to the minimiser:

    T = A + (D Q / c - A Q) diag(f) Q^T

f = 1                    the minimiser nearest to the anchor: RegMean (arXiv 2212.09849); with Gi = Ti^T Ti / |Ti|^2,
                         WUDI (arXiv 2503.08099)
f = c / (c + lambda)     Bayesian regression with a prior around A: (D + lambda A) (C + lambda I)^-1, BMM
                         (arXiv 2605.12843)
other filters            spectral WUDI: the same minimiser, approached and not reached

Directions with c = 0 keep the anchor, and are left out of Q: with adapters alone C lives in the span of their A, and
nothing here is larger than their stacked rank (`within`).

Shapes: M rows, N columns, R directions.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

from crossbreed.kernels.basis_core import eigh

NOISE = 1e-12
"""Eigenvalues below this part of the largest are zero: fp64 cannot tell them from it."""


class Term(NamedTuple):
    """What one expert adds to the sum of squares; fp64."""

    weight: float
    delta_MN: torch.Tensor
    gram_NN: torch.Tensor


class Anchor(NamedTuple):
    """A delta that a prior is centred on, or that a descent begins at."""

    delta_MN: torch.Tensor
    seen_MR: torch.Tensor
    """Its coordinates in a system's eigenvectors, which stay the same while only the regularisation changes."""


class System(NamedTuple):
    """T C = D in the eigenvectors of C."""

    eigenvalues_R: torch.Tensor
    """fp64, largest first, none of them zero."""
    basis_NR: torch.Tensor
    """Q, fp32."""
    minimiser_MR: torch.Tensor
    """D Q / c: the minimiser's coordinates, fp32."""

    @property
    def mean_eigenvalue(self) -> float:
        """Over all N, those that are zero too: the unit in which one range of lambda fits every module."""
        return float(self.eigenvalues_R.sum()) / len(self.basis_NR)

    def anchored(self, delta_MN: torch.Tensor) -> Anchor:
        """Returns a delta with its coordinates."""
        return Anchor(delta_MN, delta_MN @ self.basis_NR)


def solve(terms: Iterable[Term], within_NR: torch.Tensor | None = None) -> System:
    """Finds the system's eigenvectors, in fp64.

    Args:
        terms: At least one; asked for one by one.
        within_NR: Orthonormal columns in which the terms' deltas and Grams are given; None: those of the matrix.
    """
    c_NN = d_MN = torch.zeros((), dtype=torch.float64)
    for weight, delta_MN, gram_NN in terms:
        c_NN, d_MN = c_NN + weight * gram_NN, d_MN + weight * (delta_MN @ gram_NN)
    values_N, vectors_NN = eigh(c_NN)
    kept = ~(values_N <= NOISE * values_N[0])
    values_R, vectors_NR = values_N[kept], vectors_NN[:, kept]
    basis_NR = vectors_NR if within_NR is None else within_NR @ vectors_NR
    return System(values_R, basis_NR.float(), (d_MN @ vectors_NR / values_R).float())


def approach(system: System, anchor: Anchor, parts_R: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Returns the scaled anchor, moved along each direction by a part of its way to the minimiser."""
    ways_MR = (system.minimiser_MR - scale * anchor.seen_MR) * parts_R.float()
    return scale * anchor.delta_MN + ways_MR @ system.basis_NR.T


def tikhonov(system: System, ridge: float) -> torch.Tensor:
    """The part c / (c + ridge)."""
    return system.eigenvalues_R / (system.eigenvalues_R + ridge)


def exponential(system: System, time: float) -> torch.Tensor:
    """The part 1 - exp(-time c): gradient flow, stopped at a time."""
    return -torch.expm1(-time * system.eigenvalues_R)


def landweber(system: System, steps: float) -> torch.Tensor:
    """The part 1 - (1 - 0.9 c / max(c))^steps: gradient descent, stopped after some steps."""
    return -torch.expm1(steps * torch.log1p(-0.9 * system.eigenvalues_R / system.eigenvalues_R[:1]))


def top_k(system: System, ratio: float) -> torch.Tensor:
    """All of the way in the first directions, a ratio of N; none in the others."""
    parts_R = torch.zeros_like(system.eigenvalues_R)
    parts_R[: int(ratio * len(system.basis_NR))] = 1
    return parts_R


FILTERS: Mapping[str, Callable[[System, float], torch.Tensor]] = MappingProxyType(
    {"tikhonov": tikhonov, "exponential": exponential, "landweber": landweber, "top_k": top_k}
)
"""Filter -> f of each direction, given the system and the filter's own number."""
