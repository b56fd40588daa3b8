"""Runs work on a CUDA device, to the same fp32 values as the CPU's executors.

Kernels are Triton's and are compiled when they are first used, a second each, into Triton's own cache. Only this
package imports triton, and nothing imports this package before a tensor is on a CUDA device. Functions of elements that
an operator brings along (`Elementwise`) run in torch, block by block.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from crossbreed.kernels.executors.cuda.election import elect
from crossbreed.kernels.executors.cuda.inner_products import inner_products_of
from crossbreed.kernels.executors.cuda.linear import linear
from crossbreed.kernels.executors.cuda.ratio import ratio
from crossbreed.kernels.executors.cuda.values import Values, whole
from crossbreed.kernels.executors.lowering import Apply, Pass, value_of
from crossbreed.kernels.executors.protocol import TensorMerge, Waiting, checked
from crossbreed.kernels.executors.torch_blocks import TorchBlocks
from crossbreed.kernels.tensors import ExpertTensor

__all__ = ["Cuda", "average", "inner_products_of"]

_AT_ONCE = 1 << 24
"""Elements in a block of torch's functions: 64 MiB in fp32 for each expert and temporary."""


class Cuda(TorchBlocks):
    """Queues everything at once on the current stream."""

    stores_random_u16 = False
    """Threads draw them in registers: that costs arithmetic instead of two bytes an element for each expert."""

    def __init__(self, block: int = _AT_ONCE) -> None:
        """Chooses the elements in a block of torch's functions."""
        super().__init__(block)

    def start(self, merges: Sequence[TensorMerge], base: torch.Tensor) -> list[Waiting]:
        """As `Executor.start`."""
        return [partial(checked, self.run(merge, base)) for merge in merges]

    def run(self, merge: TensorMerge, base: torch.Tensor) -> torch.Tensor:
        """Queues a merge and returns the result unchecked."""
        match merge.work:
            case Apply() as work:
                there = [whole(value, base.device) for value in work.values]
                return super().run(TensorMerge(replace(work, values=there), merge.merged), base)
            case Pass(values=[]):
                return super().run(merge, base)
            case Pass(consensus=None) as work:
                values = Values.of(work.values, base.device)
                return linear(base, values, work.weights, work.of_base, merge.merged).run()
            case Pass() as work:
                return elect(work, base, merge.merged).run()


def average(
    experts: Sequence[ExpertTensor],
    importances: Sequence[torch.Tensor],
    coefficients: Sequence[float],
    base: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Returns W0 + sum(ci Fi di) / sum(ci Fi), the Fi in the base's shape: fp32 arithmetic, one rounding."""
    out = torch.empty(base.shape, dtype=dtype, device=base.device)
    values = Values.of([value_of(expert) for expert in experts], base.device)
    return ratio(base.contiguous(), values, importances, coefficients, out).run()
