"""Recipes become weights here: recipe + sources -> a lazy stream of (name, tensor), at the speed of memory.

An operator (`operators/`) looks at one tensor's sources and chooses a program (`programs`); an executor (`executors/`)
runs it in one pass, in fp32, and rounds once to the recipe's dtype. What depends on sources alone is found once
(`prepared/`) and kept in a `SourceCache`. `reference/` defines every operator in fp64; `Fingerprinted` hashes the
weights that pass through it. docs/numerics.md lists what is exact, and how close the rest is.
"""

from crossbreed.kernels.fingerprint import Fingerprinted, fingerprint_checkpoint
from crossbreed.kernels.materialize import check_recipe, materialize, materialize_many, unchanged
from crossbreed.kernels.model_products import inner_products
from crossbreed.kernels.operators import ARITHMETIC
from crossbreed.kernels.programs import Operator
from crossbreed.kernels.slopes import slopes
from crossbreed.kernels.source_cache import SourceCache

__all__ = [
    "ARITHMETIC",
    "Fingerprinted",
    "Operator",
    "SourceCache",
    "check_recipe",
    "fingerprint_checkpoint",
    "inner_products",
    "materialize",
    "materialize_many",
    "slopes",
    "unchanged",
]
