"""Compiled CPU kernels: `merge.hpp` merges, `facts.hpp` prepares; `operands` tell them what, `threads` run them."""

from crossbreed.kernels.native.compiling import compiler
from crossbreed.kernels.native.facts import PHILOX_BLOCK, Cuts, draw_codes, find_cuts, rank_rows
from crossbreed.kernels.native.merge import Merge, product, start
from crossbreed.kernels.native.operands import Kept, Operand, Tensors, Weights
from crossbreed.kernels.native.threads import Begun, in_parallel

__all__ = [
    "PHILOX_BLOCK",
    "Begun",
    "Cuts",
    "Kept",
    "Merge",
    "Operand",
    "Tensors",
    "Weights",
    "compiler",
    "draw_codes",
    "find_cuts",
    "in_parallel",
    "product",
    "rank_rows",
    "start",
]
