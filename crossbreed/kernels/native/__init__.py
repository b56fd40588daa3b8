"""Compiled CPU kernels: `merge.hpp` has the arithmetic, `merge` calls it, `threads` run it, `compiling` makes it."""

from crossbreed.kernels.native.compiling import compiler
from crossbreed.kernels.native.merge import Merge, Operand, find_magnitude, product, start
from crossbreed.kernels.native.threads import Begun, in_parallel

__all__ = ["Begun", "Merge", "Operand", "compiler", "find_magnitude", "in_parallel", "product", "start"]
