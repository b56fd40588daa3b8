"""Compiled CPU kernels: `merge.hpp` merges, `thresholds.hpp` prepares what merges read; `threads` runs them."""

from crossbreed.kernels.native.compiling import compiler
from crossbreed.kernels.native.merge import Merge, product, start
from crossbreed.kernels.native.operands import Operand, Weights
from crossbreed.kernels.native.threads import Begun, in_parallel, is_on_cpu
from crossbreed.kernels.native.thresholds import PHILOX_BLOCK, Thresholds, draw_random_u16, find_thresholds, rank_rows

__all__ = [
    "PHILOX_BLOCK",
    "Begun",
    "Merge",
    "Operand",
    "Thresholds",
    "Weights",
    "compiler",
    "draw_random_u16",
    "find_thresholds",
    "in_parallel",
    "is_on_cpu",
    "product",
    "rank_rows",
    "start",
]
