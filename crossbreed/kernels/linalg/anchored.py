"""Least squares around an anchor, from sums over tokens that pass by once.

A Linear's weight W = A + D should make of the inputs x of a merge what each expert e makes of its own: outputs y. With
the residuals r = y - A x of the anchor A, and means over an expert's (weighted) tokens,

    D = argmin sum_e mean |D x - r|^2 + l |D|^2 = R (C + l I)^-1
    C = sum_e mean x x^T,   R = sum_e mean r x^T,   l = lambda times the mean eigenvalue of C

Off the diagonal, C counts by a factor alpha below 1 where each column is also held to each expert's own (`hold`):

    C = alpha sum_e Ce + (1 - alpha) sum_e diag(Ce)      R likewise, with (We - A) diag(Ce) in place of r x^T

which, where the targets are what the experts' matrices We make of x, is RegMean's solution sum We Ce' (sum Ce')^-1.

Linears that get the same inputs share C, and its Cholesky factor. `within` an orthonormal basis Q of some rows, D has
no others: D = R Q (Q^T C Q + l I)^-1 Q^T.

Products of a batch are made in fp32 (of fp64 inputs, in fp64), and added up and solved in fp64: an element of C is off
by less than B 2^-24 sqrt(cii cjj), where B is the number of tokens of a batch, and usually by far less.

Shapes: T tokens, M outputs, N inputs, R basis vectors.
"""

from collections.abc import Mapping, Sequence

import torch

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.linalg.least_squares import directions

_LEAST = 1e-6
"""A smaller lambda does not outweigh what rounding has made of C: its eigenvectors are needed, to leave it out."""


class AnchoredSums:
    """What the residuals of Linears with shared inputs are solved from.

    >>> sums = AnchoredSums(2, {"up": 1})
    >>> x_TN = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> sums.add(x_TN, {"up": torch.tensor([[3.0], [4.0]])}, share=0.5)
    >>> sums.change("up", ridge=0.0).tolist()
    [[3.0, 2.0]]
    """

    def __init__(self, num_columns: int, rows: Mapping[str, int], *, device: torch.device | str = "cpu") -> None:
        """Starts with nothing.

        Args:
            num_columns: Of the inputs.
            rows: Linear -> its number of outputs.
            device: Where sums are kept, and solved.
        """
        self._gram_NN = torch.zeros(num_columns, num_columns, dtype=torch.float64, device=device)
        self._cross = {
            name: torch.zeros(num, num_columns, dtype=torch.float64, device=device) for name, num in rows.items()
        }
        self._is_rounded = False
        """Whether inputs were less than fp64, so that tiny eigenvalues of C are what rounding has made."""
        self._is_held = False
        """Whether `hold` has given each column of C a part of its own: then C has an inverse, rounded or not."""
        self._factors: dict[float, torch.Tensor] = {}

    def add(
        self,
        x_TN: torch.Tensor,
        residuals: Mapping[str, torch.Tensor],
        *,
        share: float,
        weights_T: torch.Tensor | None = None,
    ) -> None:
        """Adds tokens.

        Args:
            x_TN: Inputs.
            residuals: Linear -> what its outputs [T, M] should be more than the anchor's.
            share: Weight of each token: 1 over the number of its expert's tokens, for a mean.
            weights_T: Further weights, one for each token.
        """
        self._factors.clear()
        self._is_rounded |= x_TN.dtype != torch.float64
        x_TN = _wide(x_TN)
        weighted_TN = x_TN if weights_T is None else x_TN * weights_T[:, None]
        self._gram_NN.add_(weighted_TN.T @ x_TN, alpha=share)
        for name, residual_TM in residuals.items():
            self._cross[name].add_(_wide(residual_TM).T @ weighted_TN, alpha=share)

    def hold(self, squares_N: torch.Tensor, differences: Mapping[str, torch.Tensor], *, share: float) -> None:
        """Holds each column to an expert's own, as strongly as inputs are large there.

        Args:
            squares_N: Sum of the (weighted) squares of the expert's inputs.
            differences: Linear -> the expert's matrix [M, N] less the anchor's.
            share: As in `add`.
        """
        self._factors.clear()
        self._is_held = True
        squares_N = squares_N.double()
        self._gram_NN.diagonal().add_(squares_N, alpha=share)
        for name, difference_MN in differences.items():
            self._cross[name].add_(difference_MN * squares_N, alpha=share)

    @property
    def mean_eigenvalue(self) -> float:
        """The unit of lambda, so that one value fits all layers."""
        return float(self._gram_NN.trace()) / len(self._gram_NN)

    @property
    def gram_NN(self) -> torch.Tensor:
        """C, in fp64; not to be written to."""
        return self._gram_NN

    def cross(self, name: str) -> torch.Tensor:
        """Returns R of a Linear, in fp64; not to be written to."""
        return self._cross[name]

    def change(self, name: str, *, ridge: float, within_NR: torch.Tensor | None = None) -> torch.Tensor:
        """Returns D of a Linear, in fp64.

        Args:
            name: The Linear.
            ridge: Lambda, in mean eigenvalues. 0 where C has no inverse: the smallest D among the minimisers.
            within_NR: Orthonormal columns in whose span the rows of D are to be; None: anywhere.

        Raises:
            InvalidWeights: inputs or residuals hold NaN or Inf.
        """
        cross_MN = self._cross[name]
        if not (self._gram_NN.isfinite().all() and cross_MN.isfinite().all()):
            raise InvalidWeights(f"what `{name}` is given, or should make of it, holds NaN or Inf")
        if within_NR is not None:
            within_NR = within_NR.to(self._gram_NN)
            gram_RR = within_NR.T @ self._gram_NN @ within_NR
            return self._solved(cross_MN @ within_NR, gram_RR, ridge, {}) @ within_NR.T
        return self._solved(cross_MN, self._gram_NN, ridge, self._factors)

    def _solved(
        self, cross_MN: torch.Tensor, gram_NN: torch.Tensor, ridge: float, factors: dict[float, torch.Tensor]
    ) -> torch.Tensor:
        """Returns R (C + l I)^-1, with the factor of the same C that is among `factors`, or is put there."""
        absolute = ridge * self.mean_eigenvalue
        if ridge < _LEAST and not (self._is_held and gram_NN is self._gram_NN):
            found = directions(gram_NN, are_stored=self._is_rounded)
            return (cross_MN @ found.basis_NR / (found.eigenvalues_R + absolute)) @ found.basis_NR.T
        if ridge not in factors:
            ridged_NN = gram_NN.clone()
            ridged_NN.diagonal().add_(absolute)
            ridged_NN.diagonal()[ridged_NN.diagonal() == 0] = 1.0  # of inputs that are always 0: the anchor stays
            factors[ridge] = torch.linalg.cholesky(ridged_NN)
        solved_NM: torch.Tensor = torch.cholesky_solve(cross_MN.T, factors[ridge])
        return solved_NM.T


def row_space(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns an orthonormal basis, as columns, of the span of all rows of some matrices; fp64."""
    stacked_RN = torch.cat([part.double() for part in rows])
    _, values_R, right_RN = torch.linalg.svd(stacked_RN, full_matrices=False)
    basis_RN: torch.Tensor = right_RN[values_R > 1e-6 * values_R[:1]]
    return basis_RN.T


def _wide(value: torch.Tensor) -> torch.Tensor:
    """At least fp32: products of bf16 would be rounded to it."""
    return value if value.dtype == torch.float64 else value.float()
