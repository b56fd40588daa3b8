"""What the deltas of a tensor are made from, as kernels read it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from crossbreed.kernels.executors.cuda.product import product
from crossbreed.kernels.executors.lowering import Delta, Full, Product, Value


@dataclass(frozen=True, slots=True)
class Values:
    """Tensors in a row on one device, contiguous."""

    tensors: tuple[torch.Tensor, ...]
    is_full: tuple[bool, ...]
    """Whether each is an expert's tensor, from which the base is subtracted; else it is a delta in fp32."""

    @classmethod
    def of(cls, values: Sequence[Value], device: torch.device) -> "Values":
        """Returns those of some values; an adapter's delta is made whole."""
        there = [whole(value, device) for value in values]
        tensors = (value.value_MN if isinstance(value, Full) else value.delta_MN for value in there)
        return cls(tuple(tensors), tuple(isinstance(value, Full) for value in there))


def whole(value: Value, device: torch.device) -> Full | Delta:
    """Returns a value on the device, contiguous; a product is multiplied out."""
    match value:
        case Full(value_MN=value_MN):
            return Full(value_MN.to(device).contiguous())
        case Delta(delta_MN=delta_MN):
            return Delta(delta_MN.to(device).contiguous())
        case Product(b_MR=b_MR, a_RN=a_RN):
            return Delta(product(b_MR.to(device).contiguous(), a_RN.to(device).contiguous()).run())
