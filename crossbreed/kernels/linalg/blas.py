"""BLAS and LAPACK, to the same bits however many threads there are.

Both split their work by the number of threads, and with it the order in which they sum: eigenvectors in fp64 differ
between one thread and two, and so do products of few rows. But a run may be resumed on more cores than it was begun on,
and its winner is published by a process that has all of them. So what decomposes or solves does it on one thread
(`on_threads`), and a product is made in blocks of rows, each on one thread, as many at a time as torch has threads.

Shapes: M rows, N columns, K what is summed over.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from crossbreed.kernels.native import in_parallel, is_on_cpu

_ROWS = 128
"""Of a block: enough for a core to be busy with arithmetic."""
_WORK = 64
"""Multiplications that count as one element, to `in_parallel`."""


@contextmanager
def on_threads(number: int) -> Iterator[None]:
    """Has torch, BLAS and LAPACK use so many threads for what this thread asks of them; also as a decorator."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def matmul_by_rows(a_MK: torch.Tensor, b_KN: torch.Tensor) -> torch.Tensor:
    """Returns A B, in the dtype of both."""
    if not is_on_cpu(a_MK):
        return a_MK @ b_KN
    made_MN = a_MK.new_empty(len(a_MK), b_KN.shape[1])

    def make(first: int, last: int) -> None:
        with on_threads(1):
            for start in range(first * _ROWS, last * _ROWS, _ROWS):
                rows = slice(start, start + _ROWS)
                torch.mm(a_MK[rows], b_KN, out=made_MN[rows])

    in_parallel(make, -(-len(a_MK) // _ROWS), a_MK.numel() * b_KN.shape[1] // _WORK)
    return made_MN
