"""What an executor is: the kernels of one kind of device, or of one way to make them.

Three keep this protocol: `native` (compiled C++, on CPU), `torch_blocks` (torch alone, on any device) and `cuda`
(Triton). All make the same values; `executors.executor_of` chooses.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.executors.lowering import Computed
from crossbreed.kernels.native import Thresholds
from crossbreed.kernels.tensors import ExpertTensor

NOT_FINITE = "the merge holds NaN or Inf"

Waiting: TypeAlias = Callable[[], torch.Tensor]
"""Gives the merged tensor when it is done. Raises InvalidWeights if it holds NaN or Inf."""


class TensorMerge(NamedTuple):
    """The merge of one tensor."""

    work: Computed
    merged: torch.Tensor
    """Where the result goes: contiguous, in the dtype to round to."""


class Executor(Protocol):
    """Merges tensors, and finds what masks are made from."""

    stores_random_u16: bool
    """Whether it pays to store the random numbers of a mask; else they are drawn by every merge."""

    def start(self, merges: Sequence[TensorMerge], base: torch.Tensor) -> list[Waiting]:
        """Starts one tensor's merge, or several that read the same sources.

        Args:
            merges: The merges to start.
            base: The base's tensor, contiguous.

        Returns:
            What waits for each. An executor may begin at once, on threads or a stream, or when it is waited for.
        """
        ...

    def find_thresholds(self, expert: ExpertTensor, base: torch.Tensor, keeps: NDArray[np.int64]) -> Thresholds | None:
        """Returns where the largest elements of a delta end; of equal magnitudes those that come first are kept.

        Args:
            expert: The expert whose delta is cut.
            base: The base's tensor.
            keeps: For each threshold how many elements are kept, from 1 to all; 32,767 thresholds at most.

        Returns:
            None: several were asked for, and the device has no memory for that. A single one is always found.
        """
        ...

    def rank_rows(self, expert: ExpertTensor, base: torch.Tensor) -> torch.Tensor:
        """Returns uint8 [n]: where each magnitude of a delta stands in its row, from 0 (the smallest) to 255.

        Of equal ones those that come first stand lower. A vector is a row.
        """
        ...

    def random_u16(self, key: tuple[int, int], size: int) -> torch.Tensor:
        """Returns uint16 [size]: the first numbers of a Philox stream, as numpy draws them."""
        ...


def checked(merged: torch.Tensor) -> torch.Tensor:
    """Returns the tensor. One pass without a copy: both extremes are NaN as soon as one element is.

    Raises:
        InvalidWeights: it holds NaN or Inf.
    """
    if merged.numel() and not all(math.isfinite(extreme.item()) for extreme in merged.aminmax()):
        raise InvalidWeights(NOT_FINITE)
    return merged
