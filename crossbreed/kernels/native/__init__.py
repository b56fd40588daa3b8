"""Compiled CPU kernels: `merge.hpp` merges, `thresholds.hpp` prepares what merges read; `threads` runs them."""

from crossbreed.kernels.native.compiling import compiler
from crossbreed.kernels.native.merge import Merge, product, start_merges
from crossbreed.kernels.native.operands import Coefficients, Operand
from crossbreed.kernels.native.threads import Begun, in_parallel, is_on_cpu
from crossbreed.kernels.native.thresholds import PHILOX_BLOCK, Thresholds, draw_random_u16, find_thresholds, rank_rows

__all__ = [
    "PHILOX_BLOCK",
    "Begun",
    "Coefficients",
    "Merge",
    "Operand",
    "Thresholds",
    "compiler",
    "draw_random_u16",
    "find_thresholds",
    "in_parallel",
    "is_on_cpu",
    "product",
    "rank_rows",
    "start_merges",
]
