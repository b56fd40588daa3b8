"""A matrix around an anchor, as a function of lambda, the anchor's scale and the mix of two targets.

With C = sum_e mean x x^T of a walk's inputs, T the targets' cross moments sum_e mean t x^T beside the base's outputs
(of experts' own outputs, of what experts' matrices make of x, or between), A the anchor's delta and l = lambda times
the mean eigenvalue of C, the minimiser of sum_e mean |W x - t|^2 + l |W - W0 - a A|^2 is

    W = W0 + (T + l a A) (C + l I)^-1 = W0 + (T U + l a A U) diag(1 / (s + l)) U^T,   C = U diag(s) U^T

so with T U and A U at hand, other settings cost a diagonal and one product (`anchored` solves for one setting).

Shapes: M rows, N columns and directions.
"""

from typing import NamedTuple

import torch

from crossbreed.kernels.linalg.blas import matmul_by_rows


class Walked(NamedTuple):
    """What a matrix is solved from, in the directions of its inputs."""

    values_N: torch.Tensor
    """s: eigenvalues of C, none of them negative."""
    directions_NN: torch.Tensor
    """U^T: eigenvectors, as rows."""
    own_MN: torch.Tensor
    """T U where the targets are the experts' own outputs."""
    experts_MN: torch.Tensor
    """T U where they are what the experts' matrices make of the inputs."""
    anchor_MN: torch.Tensor
    """A U."""

    @property
    def mean_eigenvalue(self) -> float:
        """The unit of lambda."""
        return float(self.values_N.double().mean())

    def delta(self, *, ridge: float, anchor_scale: float, own: float) -> torch.Tensor:
        """Returns W - W0, in the dtype of what is stored.

        Args:
            ridge: Lambda, in mean eigenvalues; above 0.
            anchor_scale: a.
            own: Share of the experts' own outputs in the targets.
        """
        absolute = ridge * self.mean_eigenvalue
        inverse_N = 1 / (self.values_N.double() + absolute)
        dtype = self.own_MN.dtype
        ways_MN = self.own_MN * (own * inverse_N).to(dtype)
        ways_MN.addcmul_(self.experts_MN, ((1 - own) * inverse_N).to(dtype))
        ways_MN.addcmul_(self.anchor_MN, (anchor_scale * absolute * inverse_N).to(dtype))
        return matmul_by_rows(ways_MN, self.directions_NN)


def walked(
    values_N: torch.Tensor,
    vectors_NN: torch.Tensor,
    *,
    own_MN: torch.Tensor,
    experts_MN: torch.Tensor,
    anchor_MN: torch.Tensor,
) -> Walked:
    """Returns what settings are applied to, in fp32, from fp64.

    Args:
        values_N: Eigenvalues of C.
        vectors_NN: Its eigenvectors, as columns.
        own_MN: T of the experts' own outputs.
        experts_MN: T of what the experts' matrices make of the inputs.
        anchor_MN: A.
    """
    turned = (matmul_by_rows(part, vectors_NN).float() for part in (own_MN, experts_MN, anchor_MN))
    return Walked(values_N.clamp_min(0).float(), vectors_NN.T.float().contiguous(), *turned)
