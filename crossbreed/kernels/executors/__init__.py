"""Executors: programs become tensors, on CPU or CUDA, compiled or not, to the same values.

`lowering` decides what is to be done, `executor_of` what does it: `native`, `torch_blocks` or `cuda`.
"""

from collections.abc import Sequence
from functools import cache, partial

import torch

from crossbreed.kernels.executors.lowering import Same, lower
from crossbreed.kernels.executors.native import Native
from crossbreed.kernels.executors.protocol import Executor, TensorMerge, Waiting, checked
from crossbreed.kernels.executors.torch_blocks import TorchBlocks
from crossbreed.kernels.native import compiler, is_on_cpu
from crossbreed.kernels.programs import Program

__all__ = ["NATIVE", "TORCH_BLOCKS", "Executor", "Waiting", "execute", "executor_of", "start_programs"]

NATIVE = Native()
TORCH_BLOCKS = TorchBlocks()


def executor_of(base: torch.Tensor) -> Executor:
    """Returns what merges tensors where a base's tensor is."""
    if base.is_cuda:
        return _cuda()
    return NATIVE if is_on_cpu(base) and compiler() else TORCH_BLOCKS


@cache
def _cuda() -> Executor:
    from crossbreed.kernels.executors.cuda import Cuda  # imports triton

    return Cuda()


def execute(
    program: Program,
    base: torch.Tensor,
    dtype: torch.dtype,
    *,
    out: torch.Tensor | None = None,
    executor: Executor | None = None,
) -> torch.Tensor:
    """Returns the merged tensor in `dtype`: fp32 arithmetic, one rounding. The base's own where nothing changes it.

    Args:
        program: The program to compute.
        base: The base's tensor.
        dtype: The dtype of the result.
        out: Where to write it (an engine's own memory, say): contiguous, on the base's device. None: new memory.
        executor: None: `executor_of` the base.

    Raises:
        InvalidWeights: it holds NaN or Inf.
    """
    (waiting,) = start_programs([program], base, dtype, outs=None if out is None else [out], executor=executor)
    return waiting()


def start_programs(
    programs: Sequence[Program],
    base: torch.Tensor,
    dtype: torch.dtype,
    *,
    outs: Sequence[torch.Tensor] | None = None,
    executor: Executor | None = None,
) -> list[Waiting]:
    """Starts one tensor's merge, or several that read the same sources: one pass over memory may do them all.

    The arguments are those of `execute`.
    """
    works = [lower(program, base) for program in programs]
    given: Sequence[torch.Tensor | None] = [None] * len(works) if outs is None else outs
    whole, results = base.contiguous(), list(zip(works, given, strict=True))
    merges = [TensorMerge(work, _memory(out, whole, dtype)) for work, out in results if not isinstance(work, Same)]
    begun = iter((executor or executor_of(base)).start(merges, whole) if merges else ())
    return [partial(_same, work.tensor, dtype, out) if isinstance(work, Same) else next(begun) for work, out in results]


def _memory(out: torch.Tensor | None, base: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Where a result is written."""
    if out is None:
        return torch.empty_like(base, dtype=dtype)
    assert (out.shape, out.dtype) == (base.shape, dtype), "an output for another tensor"
    assert out.is_contiguous(), "kernels write elements in a row"
    return out


def _same(tensor: torch.Tensor, dtype: torch.dtype, out: torch.Tensor | None) -> torch.Tensor:
    """A tensor that exists, in a dtype; the base's NaN is no fault of a merge."""
    if out is not None:
        return checked(out.copy_(tensor))
    return tensor if tensor.dtype == dtype else checked(tensor.to(dtype))
