"""Recipes become weights here: recipe + sources -> a lazy stream of (name, tensor), at the speed of memory.

An operator (`operators/`) looks at one tensor's sources and chooses a program (`programs`); `execute` runs it in one
pass, in fp32, and rounds once to the recipe's dtype. What depends on sources alone is found once (`facts`). `reference`
says in fp64 what every operator means; `Fingerprinted` names the weights that went by. What is exact, and how close the
rest is, is in docs/numerics.md.
"""

from crossbreed.kernels.facts import Facts
from crossbreed.kernels.fingerprint import Fingerprinted, fingerprint_checkpoint
from crossbreed.kernels.materialize import check_recipe, materialize, materialize_many, unchanged
from crossbreed.kernels.operators import OPERATORS
from crossbreed.kernels.products import inner_products
from crossbreed.kernels.programs import Operator
from crossbreed.kernels.slopes import slopes

__all__ = [
    "OPERATORS",
    "Facts",
    "Fingerprinted",
    "Operator",
    "check_recipe",
    "fingerprint_checkpoint",
    "inner_products",
    "materialize",
    "materialize_many",
    "slopes",
    "unchanged",
]
