"""What the deltas of a tensor are made from, as kernels read it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from crossbreed.kernels.cuda.product import product
from crossbreed.kernels.programs import Coefficient
from crossbreed.sources import LowRank


@dataclass(frozen=True, slots=True)
class Values:
    """Tensors in a row on one device, contiguous."""

    tensors: tuple[torch.Tensor, ...]
    is_full: tuple[bool, ...]
    """Whether each is an expert's tensor, from which the base is subtracted; else it is a delta in fp32."""

    @classmethod
    def of(
        cls,
        experts: Sequence[torch.Tensor | LowRank],
        device: torch.device,
        *,
        deltas: Sequence[torch.Tensor] = (),
    ) -> "Values":
        """Returns those of some experts, then those of some deltas; an adapter's delta is made whole."""
        full = [value if isinstance(value, torch.Tensor) else stacked([(1.0, value)], device) for value in experts]
        is_full = [isinstance(value, torch.Tensor) for value in experts]
        tensors = tuple(tensor.to(device).contiguous() for tensor in (*full, *deltas))
        return cls(tensors, (*is_full, *[False] * len(deltas)))


def stacked(factors: Sequence[tuple[Coefficient, LowRank]], device: torch.device) -> torch.Tensor:
    """Returns the sum of some adapters' deltas as one product: [c1 s1 B1 ... cn sn Bn] [A1; ...; An]."""
    left, right = [], []
    for given, low in factors:
        c = given.to(device) if isinstance(given, torch.Tensor) else given
        b_MR, a_RN = low.b_MR.to(device), low.a_RN.to(device)
        by_columns = isinstance(c, torch.Tensor) and c.shape[0] == 1
        left.append(low.scale * b_MR if by_columns else c * low.scale * b_MR)
        right.append(a_RN * c if by_columns else a_RN)
    return product(torch.cat(left, dim=1).contiguous(), torch.cat(right).contiguous()).run()
