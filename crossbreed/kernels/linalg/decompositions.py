"""Decompositions of matrices, to the same bits however many threads there are (`blas`).

Singular vectors are found in fp64 as eigenvectors of A^T A. Squaring costs half the digits: singular values are good to
1e-8 of the largest, which is more than fp32 weights hold, at a fraction of the time of an SVD.

Shapes: M rows, N columns, R rank.
"""

from typing import NamedTuple

import torch

from crossbreed.kernels.linalg.blas import matmul_by_rows, on_threads

NOISE = 1e-6
"""Singular values below this part of the largest are zero: nothing decides their vectors."""
FLOOR = 1e-6
"""Of the largest eigenvalue of B^T B: what a smaller one counts as, where it is inverted."""


class Factors(NamedTuple):
    """matrix_MN = left_MR diag(values_R) right_NR^T."""

    left_MR: torch.Tensor
    values_R: torch.Tensor
    right_NR: torch.Tensor


def svd(matrix_MN: torch.Tensor) -> Factors:
    """Returns the singular triplets of an fp64 matrix, largest first, without those that are zero."""
    if matrix_MN.shape[0] < matrix_MN.shape[1]:
        right_NR, values_R, left_MR = svd(matrix_MN.T)
        return Factors(left_MR, values_R, right_NR)
    squares_N, vectors_NN = eigh(matmul_by_rows(matrix_MN.T, matrix_MN))
    values_N = squares_N.clamp_min(0).sqrt()
    kept = ~(values_N <= NOISE * values_N[0])
    right_NR, values_R = vectors_NN[:, kept], values_N[kept]
    return Factors(matmul_by_rows(matrix_MN, right_NR) / values_R, values_R, right_NR)


def polar(basis_MR: torch.Tensor) -> torch.Tensor:
    """Returns the orthonormal columns nearest to these, B (B^T B)^(-1/2), in fp32.

    Columns that are nearly dependent (experts that learned the same) would blow up noise: see FLOOR.
    """
    basis_MR = basis_MR.double()
    values_R, vectors_RR = eigh(matmul_by_rows(basis_MR.T, basis_MR))
    roots_R = values_R.clamp_min(FLOOR * values_R[:1]).rsqrt()
    return matmul_by_rows(matmul_by_rows(basis_MR, vectors_RR * roots_R), vectors_RR.T).float()


def eigh(symmetric_NN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns eigenvalues, largest first, and eigenvectors. All are NaN if anything is, where LAPACK would raise."""
    if not symmetric_NN.isfinite().all():
        return torch.full_like(symmetric_NN[0], torch.nan), torch.full_like(symmetric_NN, torch.nan)
    with on_threads(1):
        values_N, vectors_NN = torch.linalg.eigh(symmetric_NN)
    return values_N.flip(0), vectors_NN.flip(1)


def qr(matrix_MN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns orthonormal columns and the triangle that makes the matrix of them."""
    with on_threads(1):
        orthonormal_MR, triangle_RN = torch.linalg.qr(matrix_MN)
    return orthonormal_MR, triangle_RN
