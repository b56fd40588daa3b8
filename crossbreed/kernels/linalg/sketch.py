"""Grams that would outgrow memory: some directions and the diagonal, from one pass over the inputs.

Frequent Directions (Liberty 2013; Ghashami et al. 2016, SIAM J. Comput. 45): rows are gathered until there are twice as
many as may be kept; then the squares of all singular values are lowered by that of the first one that has to go. With X
all inputs as rows, B the rows that are left and K how many,

    0 <= X^T X - B^T B <= e I,    e <= |X - X_k|_F^2 / (K - k) for every k < K,

X_k being the best approximation of rank k. What B lacks is given back on the diagonal, where it is known exactly. So
the Gram here is never indefinite, its diagonal and trace are exact, and it is off by no more than e in the spectral
norm; up to K inputs it is exact.

Shapes: N columns, T inputs (tokens), K rows that are kept.
"""

from typing import NamedTuple

import torch

from crossbreed.kernels.linalg.blas import matmul_by_rows, on_threads


class Sketch(NamedTuple):
    """A Gram: rows^T rows + diag(diagonal)."""

    rows_KN: torch.Tensor
    diagonal_N: torch.Tensor

    def whole(self) -> torch.Tensor:
        """Returns it as a matrix [N, N]."""
        return matmul_by_rows(self.rows_KN.T, self.rows_KN) + self.diagonal_N.diag()

    @on_threads(1)  # a sum over rows splits columns among threads, and rounds the last few otherwise
    def diagonal(self) -> torch.Tensor:
        """Returns the Gram's diagonal, which is exact."""
        return self.diagonal_N + self.rows_KN.square().sum(0)


class FrequentDirections:
    """Sketches the sum of x x^T over the inputs that pass by.

    >>> sketcher = FrequentDirections(num_columns=3, rank=2)
    >>> sketcher.add(torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]]))
    >>> sketcher.sketch().whole().tolist()
    [[10.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]]
    """

    def __init__(self, *, num_columns: int, rank: int) -> None:
        self._rank = rank
        self._rows_KN = torch.empty(0, num_columns)
        self._diagonal_N = torch.zeros(num_columns, dtype=torch.float64)

    def add(self, inputs_TN: torch.Tensor) -> None:
        """Adds inputs, in fp32."""
        self._diagonal_N += inputs_TN.double().square().sum(0)
        for start in range(0, len(inputs_TN), self._rank):
            self._rows_KN = torch.cat([self._rows_KN, inputs_TN[start : start + self._rank]])
            if len(self._rows_KN) >= 2 * self._rank:
                self._shrink()

    def sketch(self) -> Sketch:
        """Returns the sum so far."""
        if len(self._rows_KN) > self._rank:
            self._shrink()
        missing_N = self._diagonal_N - self._rows_KN.double().square().sum(0)
        return Sketch(self._rows_KN, missing_N.clamp_min(0).float())

    def _shrink(self) -> None:
        rows_KN = self._rows_KN.double()
        squares_K, vectors_KK = torch.linalg.eigh(rows_KN @ rows_KN.T)  # smallest first
        kept_K, lost = squares_K[-self._rank :], squares_K[-self._rank - 1].clamp_min(0)
        factors_K = ((kept_K - lost).clamp_min(0) / kept_K.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
        self._rows_KN = (factors_K[:, None] * (vectors_KK[:, -self._rank :].T @ rows_KN)).float()
