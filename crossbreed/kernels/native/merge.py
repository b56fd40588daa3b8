"""Merges one tensor by an instance of `merge.hpp`: so many experts, of these dtypes, thinned out like this.

An instance takes a second to compile, once on a machine. Where no compiler is found `executors.torch_blocks` does the
same work, several times slower and to the same bits.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch

from crossbreed.kernels.native.compiling import compiler
from crossbreed.kernels.native.operands import Kernel, Operand, TensorArgs, Value, kernel_of, stored_as
from crossbreed.kernels.native.threads import Begun, is_on_cpu, threads


class Merge(NamedTuple):
    """The merge of one tensor. Tensors are contiguous."""

    merged_MN: torch.Tensor
    """Where the result goes."""
    operands: Sequence[Operand]
    """At least one."""
    consensus: str
    """As `Consensus` in merge.hpp."""
    pick: str
    """As `Pick` in merge.hpp."""
    of_base: float
    """Coefficient of the base, without an election."""
    scale: float
    """Of what is added to the base, with one."""


def start_merges(base_MN: torch.Tensor, merges: Sequence[Merge]) -> list[Callable[[], bool] | None]:
    """Starts merges of one tensor on other threads; those that differ in numbers alone in one pass.

    Args:
        base_MN: The base's tensor, contiguous.
        merges: The merges to start.

    Returns:
        For each what waits for it and returns whether it is finite; None: there is no compiler, or kernels do not know
        a dtype.
    """
    groups: dict[tuple[Kernel | None, bool], list[int]] = {}
    for index, merge in enumerate(merges):
        groups.setdefault((_kernel(base_MN, merge), _is_flat(merge)), []).append(index)
    waits: list[Callable[[], bool] | None] = [None] * len(merges)
    for (kernel, is_flat), members in groups.items():
        begun = kernel and _start(base_MN, [merges[index] for index in members], kernel, is_flat=is_flat)
        if begun:
            for place, index in enumerate(members):
                waits[index] = partial(begun.wait, place)
    return waits


def _start(base_MN: torch.Tensor, merges: Sequence[Merge], kernel: Kernel, *, is_flat: bool) -> Begun | None:
    found = compiler()
    pool = found and threads(found, torch.get_num_threads())
    if not pool:
        return None
    assert base_MN.is_contiguous(), "kernels read elements in a row"
    size = base_MN.numel()
    rows, columns = (1, size) if is_flat else base_MN.shape
    values = [(Value * len(merge.operands))(*[operand.value for operand in merge.operands]) for merge in merges]
    base = base_MN.data_ptr()
    batch = (TensorArgs * len(merges))(
        *[
            TensorArgs(base, merge.merged_MN.data_ptr(), own, rows, columns, merge.of_base, merge.scale)
            for merge, own in zip(merges, values, strict=True)
        ]
    )
    begun = Begun(pool, kernel, batch, held=(base_MN, merges, values))
    return begun.begin(columns if rows == 1 else rows, size)


def product(b_MR: torch.Tensor, a_RN: torch.Tensor) -> torch.Tensor | None:
    """Returns the fp32 product as merges make it; None where nothing is compiled, or factors are on another device."""
    if not is_on_cpu(b_MR):
        return None
    made_MN = torch.empty(len(b_MR), a_RN.shape[1], dtype=torch.float32)
    operand = Operand(b=b_MR.contiguous(), a=a_RN.contiguous())
    merge = Merge(made_MN, [operand], consensus="affine", pick="sum", of_base=0.0, scale=1.0)
    (wait,) = start_merges(torch.zeros_like(made_MN), [merge])
    if wait is None:
        return None
    wait()
    return made_MN


def _kernel(base_MN: torch.Tensor, merge: Merge) -> Kernel | None:
    """The instance of `merge` in merge.hpp that does it."""
    types = [stored_as(base_MN.dtype), stored_as(merge.merged_MN.dtype), *[operand.kind for operand in merge.operands]]
    found = compiler()
    if None in types or found is None:
        return None
    call = f"merge<Consensus::{merge.consensus}, Pick::{merge.pick}, {', '.join(map(str, types))}>"
    return _instance(found, call, len(merge.operands))


@cache
def _instance(compiler: str, call: str, num_values: int) -> Kernel | None:
    return kernel_of(
        compiler,
        ("merge.hpp",),
        "const TensorArgs* batch, int64_t batch_size, int64_t first, int64_t last, uint8_t* bad",
        f"{call}(batch, batch_size, first, last, bad, std::make_index_sequence<{num_values}>());",
    )


def _is_flat(merge: Merge) -> bool:
    """Whether rows do not matter: the tensor may be split anywhere."""
    return all(operand.b is operand.by_row is operand.by_column is None for operand in merge.operands)
