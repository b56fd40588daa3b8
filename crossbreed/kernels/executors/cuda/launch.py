"""What the kernels share: how an element's delta is read, and what a launch consists of.

A tensor is walked in blocks of `BLOCK` elements, flat, one program a block: all of them are read in 16-byte loads, each
byte once, and the program count fills any device. Offsets inside a block are 32 bits wide and are added to a 64-bit
first element, so tensors of more than 2**31 elements are walked too.

Products and sums are never contracted (`enable_fp_fusion=False`) and quotients are rounded to nearest (`div_rn`), so
the values are those of the CPU's kernels.

In kernels a capital name is known when they are compiled; each combination of such names and dtypes compiles once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.runtime.jit import KernelInterface


@triton.jit
def load_delta(value, first, inside, mask, base, IS_FULL: tl.constexpr):
    """Reads some elements of an expert, from which the base is subtracted if it is a full one; or of a delta."""
    delta = tl.load(value + first + inside, mask=mask, other=0.0).to(tl.float32)
    if IS_FULL:
        delta = delta - base
    return delta


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A kernel with its arguments: to be run, or to be compiled for a device that is not there."""

    kernel: KernelInterface[Callable[..., None]]
    grid: tuple[int, ...]
    out: torch.Tensor
    """The first argument, which is written."""
    arguments: tuple[object, ...]
    constants: Mapping[str, object]
    """What is compiled in."""
    num_warps: int = 4

    def run(self) -> torch.Tensor:
        """Queues the kernel on the current stream of the output's device, and returns the output."""
        with torch.cuda.device_of(self.out):
            self.kernel[self.grid](self.out, *self.arguments, **self.options)
        return self.out

    @property
    def options(self) -> dict[str, object]:
        """Keyword arguments of the kernel, the compiler's among them."""
        return {**self.constants, "num_warps": self.num_warps, "enable_fp_fusion": False}


def block_for(num_values: int) -> int:
    """Returns how many elements a program of 128 threads has: 8 a thread, but what many values leave room for."""
    return 1024 if num_values <= 8 else 512


def blocks(size: int, block: int) -> tuple[int]:
    """Returns the grid that walks `size` elements."""
    return (triton.cdiv(size, block),)
