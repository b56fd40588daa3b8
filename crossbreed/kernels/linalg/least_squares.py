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
nothing here is larger than their stacked rank (`within`). So do those that only rounding has made: where there were
fewer tokens than columns, a Gram that is stored in fp32 has tiny eigenvalues instead of none (STORED_NOISE).

Where the Grams are sketched, C = diag(d) + U^T U has no eigenvectors that anybody could afford. With E = 1 / (d +
lambda), Woodbury's identity gives the same T for any lambda by one solution of R equations (`Sketched`):

    T = A + (D - A C) (E - E U^T (I + U E U^T)^-1 U E)

Shapes: M rows, N columns, R directions.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

from crossbreed.kernels.linalg.blas import matmul_by_rows, on_threads
from crossbreed.kernels.linalg.decompositions import eigh
from crossbreed.kernels.linalg.sketch import Sketch

NOISE = 1e-12
"""Eigenvalues below this part of the largest are zero: fp64 cannot tell them from it."""
STORED_NOISE = 1e-6
"""How far off an element of a Gram is that was added up and stored in fp32: as a part of sqrt(gii gjj), with room to
spare. Independent errors of a part e come to no more than 2 e sqrt(N) q^T diag(G) q in a direction q (Wigner), so an
eigenvalue below STORED_NOISE sqrt(N) q^T diag(G) q is zero. A part of the largest eigenvalue would be no measure: some
inputs of a language model are a thousand times as large as the others (arXiv 2402.17762), whose products are rounded
no worse for it."""
LEAST_RIDGE = 1e-6
"""Where the Grams are sketched: as a part of the mean eigenvalue, what a smaller lambda counts as."""


class Term(NamedTuple):
    """What one expert adds to the sum of squares; fp64."""

    weight: float
    delta_MN: torch.Tensor
    gram_NN: torch.Tensor


class SketchedTerm(NamedTuple):
    """The same, of a sketched Gram; fp64."""

    weight: float
    delta_MN: torch.Tensor
    gram: Sketch


class Anchor(NamedTuple):
    """A delta that a prior is centred on, or that a descent begins at."""

    delta_MN: torch.Tensor
    seen_MR: torch.Tensor
    """Its coordinates in a system's eigenvectors; of a sketched one, D - A C whole. It stays the same while only the
    regularisation changes."""


class Directions(NamedTuple):
    """The eigenvectors of C that are not zero, in fp64."""

    eigenvalues_R: torch.Tensor
    """Largest first."""
    basis_NR: torch.Tensor
    """Q."""

    def minimiser(self, target_MN: torch.Tensor) -> torch.Tensor:
        """Returns D Q / c, fp32."""
        return (matmul_by_rows(target_MN, self.basis_NR) / self.eigenvalues_R).float()


class System(NamedTuple):
    """T C = D in the eigenvectors of C."""

    eigenvalues_R: torch.Tensor
    """fp64, largest first, none of them zero."""
    basis_NR: torch.Tensor
    """Q; fp32, or fp64 where other matrices' systems share it."""
    minimiser_MR: torch.Tensor
    """D Q / c: the minimiser's coordinates, fp32."""

    @property
    def mean_eigenvalue(self) -> float:
        """Over all N, those that are zero too: the unit in which one range of lambda fits every module."""
        return float(self.eigenvalues_R.sum()) / len(self.basis_NR)

    def anchored(self, delta_MN: torch.Tensor) -> Anchor:
        """Returns a delta with its coordinates."""
        return Anchor(delta_MN, matmul_by_rows(delta_MN, self.basis_NR.float()))

    def regularised(self, anchor: Anchor, ridge: float) -> torch.Tensor:
        """Returns (D + ridge A) (C + ridge I)^-1; with a ridge of 0, the minimiser nearest to A."""
        return approach(self, anchor, tikhonov(self, ridge))


class Sketched(NamedTuple):
    """T C = D with C = diag(d) + U^T U; fp64, since what Woodbury's identity subtracts is nearly equal."""

    diagonal_N: torch.Tensor
    rows_RN: torch.Tensor
    """U."""
    target_MN: torch.Tensor
    """D."""

    @property
    @on_threads(1)
    def mean_eigenvalue(self) -> float:
        """As of a `System`."""
        return float(self.diagonal_N.sum() + self.rows_RN.square().sum()) / len(self.diagonal_N)

    def anchored(self, delta_MN: torch.Tensor) -> Anchor:
        """Returns a delta with what it leaves unsolved, D - A C."""
        wide_MN = delta_MN.double()
        solved_MN = wide_MN * self.diagonal_N + matmul_by_rows(matmul_by_rows(wide_MN, self.rows_RN.T), self.rows_RN)
        return Anchor(delta_MN, self.target_MN - solved_MN)

    def regularised(self, anchor: Anchor, ridge: float) -> torch.Tensor:
        """Returns (D + ridge A) (C + ridge I)^-1, with a ridge of at least LEAST_RIDGE mean eigenvalues."""
        e_N = 1 / (self.diagonal_N + max(ridge, LEAST_RIDGE * self.mean_eigenvalue))
        scaled_RN, first_MN = self.rows_RN * e_N, anchor.seen_MR * e_N
        core_RR = torch.eye(len(scaled_RN), dtype=e_N.dtype, device=e_N.device) + matmul_by_rows(
            scaled_RN, self.rows_RN.T
        )
        seen_RM = matmul_by_rows(first_MN, self.rows_RN.T).T
        with on_threads(1):
            solved_RM = torch.linalg.solve(core_RR, seen_RM)
        return anchor.delta_MN + (first_MN - matmul_by_rows(solved_RM.T, scaled_RN)).float()


def solve(terms: Iterable[Term], within_NR: torch.Tensor | None = None, *, are_stored: bool = False) -> System:
    """Finds the system's eigenvectors, in fp64.

    Args:
        terms: At least one; asked for one by one.
        within_NR: Orthonormal columns in which the terms' deltas and Grams are given; None: those of the matrix.
        are_stored: See `directions`.
    """
    c_NN = d_MN = torch.zeros((), dtype=torch.float64)
    for weight, delta_MN, gram_NN in terms:
        c_NN, d_MN = c_NN + weight * gram_NN, d_MN + weight * matmul_by_rows(delta_MN, gram_NN)
    found = directions(c_NN, are_stored=are_stored)
    basis_NR = found.basis_NR if within_NR is None else matmul_by_rows(within_NR, found.basis_NR)
    return System(found.eigenvalues_R, basis_NR.float(), found.minimiser(d_MN))


def directions(c_NN: torch.Tensor, *, are_stored: bool) -> Directions:
    """Finds the eigenvectors of C, without those that are zero.

    Args:
        c_NN: fp64.
        are_stored: Whether Grams in it were stored in fp32.
    """
    values_N, vectors_NN = eigh(c_NN)
    least_N = NOISE * values_N[:1]
    if are_stored:
        diagonal_1N = c_NN.diagonal()[None]
        least_N = least_N.maximum(STORED_NOISE * len(c_NN) ** 0.5 * matmul_by_rows(diagonal_1N, vectors_NN.square())[0])
    kept = ~(values_N <= least_N)
    return Directions(values_N[kept], vectors_NN[:, kept])


def solve_sketched(terms: Iterable[SketchedTerm]) -> Sketched:
    """Stacks the sketches of at least one term; asked for one by one."""
    rows: list[torch.Tensor] = []
    diagonal_N = target_MN = torch.zeros((), dtype=torch.float64)
    for weight, delta_MN, gram in terms:
        diagonal_N = diagonal_N + weight * gram.diagonal_N
        rows.append(weight**0.5 * gram.rows_KN)
        seen_MN = delta_MN * gram.diagonal_N + matmul_by_rows(matmul_by_rows(delta_MN, gram.rows_KN.T), gram.rows_KN)
        target_MN = target_MN + weight * seen_MN
    return Sketched(diagonal_N, torch.cat(rows), target_MN)


def approach(system: System, anchor: Anchor, parts_R: torch.Tensor) -> torch.Tensor:
    """Returns the anchor, moved along each direction by a part of its way to the minimiser."""
    ways_MR = (system.minimiser_MR - anchor.seen_MR) * parts_R.float()
    return anchor.delta_MN + matmul_by_rows(ways_MR, system.basis_NR.float().T)


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
