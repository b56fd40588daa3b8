"""Runs work by compiled kernels, on threads of their own, so that the next tensor can be prepared meanwhile.

What kernels do not know (a dtype, a function of elements that an operator brings along), and what a process cannot run
(there is no compiler, or it is a forked child), is left to torch.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from crossbreed.errors import InvalidWeights
from crossbreed.kernels import native
from crossbreed.kernels.executors.lowering import Delta, Full, Pass, Product, Value
from crossbreed.kernels.executors.protocol import NOT_FINITE, TensorMerge, Waiting
from crossbreed.kernels.executors.torch_blocks import TorchBlocks
from crossbreed.kernels.masks import Mask
from crossbreed.kernels.programs import Coefficient
from crossbreed.kernels.tensors import ExpertTensor, as_matrix

_SMALL = 1 << 14
"""Elements up to which a sort takes less time than to find several thresholds digit by digit."""


class Native(TorchBlocks):
    """Merges what goes through memory once; begins at once."""

    def start(self, merges: Sequence[TensorMerge], base: torch.Tensor) -> list[Waiting]:
        """As `Executor.start`; merges that differ in numbers alone share one pass over memory."""
        compiled = {
            index: _merge(work, out)
            for index, (work, out) in enumerate(merges)
            if isinstance(work, Pass) and work.values
        }
        begun = dict(zip(compiled, native.start_merges(as_matrix(base), list(compiled.values())), strict=True))
        return [
            partial(_await, wait, merge.merged) if (wait := begun.get(index)) else partial(self._finish, merge, base)
            for index, merge in enumerate(merges)
        ]

    def find_thresholds(
        self, expert: ExpertTensor, base: torch.Tensor, keeps: NDArray[np.int64]
    ) -> native.Thresholds | None:
        """As `Executor.find_thresholds`."""
        if len(keeps) > 1 and base.numel() <= _SMALL:
            return super().find_thresholds(expert, base, keeps)
        found = native.find_thresholds(base, _whole(expert, base), keeps)
        return super().find_thresholds(expert, base, keeps) if found is None else found

    def rank_rows(self, expert: ExpertTensor, base: torch.Tensor) -> torch.Tensor:
        """As `Executor.rank_rows`."""
        ranks = native.rank_rows(base, _whole(expert, base), base.shape[-1] if base.ndim else 1)
        return super().rank_rows(expert, base) if ranks is None else ranks

    def random_u16(self, key: tuple[int, int], size: int) -> torch.Tensor:
        """As `Executor.random_u16`."""
        drawn = native.draw_random_u16(key, size)
        return super().random_u16(key, size) if drawn is None else drawn


def _await(wait: Callable[[], bool], merged: torch.Tensor) -> torch.Tensor:
    if not wait():
        raise InvalidWeights(NOT_FINITE)
    return merged


def _merge(work: Pass, merged: torch.Tensor) -> native.Merge:
    return native.Merge(
        merged_MN=as_matrix(merged),
        operands=[_operand(*each) for each in zip(work.values, work.weights, work.masks, strict=True)],
        consensus="affine" if work.consensus is None else work.consensus.value,
        pick=work.pick.value,
        of_base=work.of_base,
        scale=work.scale,
    )


def _operand(value: Value, weight: Coefficient, mask: Mask) -> native.Operand:
    match value:
        case Full(value_MN=full):
            return native.Operand(full, None, None, None, *_weights(weight), mask)
        case Delta(delta_MN=delta):
            return native.Operand(None, delta, None, None, *_weights(weight), mask)
        case Product(b_MR=b, a_RN=a):
            return native.Operand(None, None, b, a, *_weights(weight), mask)


def _weights(weight: Coefficient) -> native.Coefficients:
    if not isinstance(weight, torch.Tensor) or weight.numel() == 1:
        return float(weight), None, None
    if weight.shape[1] == 1:
        return 1.0, weight.float().contiguous(), None
    return 1.0, None, weight.float().contiguous()


def _whole(expert: ExpertTensor, base: torch.Tensor) -> native.Operand:
    """An expert's delta, computed first if it is a product."""
    if isinstance(expert.value, torch.Tensor):
        return native.Operand(full=expert.value)
    return native.Operand(delta=expert.whole_delta(base))
