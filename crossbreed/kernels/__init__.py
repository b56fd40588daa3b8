"""Recipes become weights here: recipe + sources -> a lazy stream of (name, tensor), at the speed of memory.

`materialize` reads each stored element once, computes in fp32 and rounds once to the recipe's dtype. `reference` says
in fp64 what every operator means; `Fingerprinted` names the weights that went by. What is exact, and how close the
rest is, is in docs/numerics.md.
"""

from crossbreed.kernels.fingerprint import Fingerprinted, fingerprint_checkpoint
from crossbreed.kernels.materialize import OPERATORS, Operator, materialize

__all__ = ["OPERATORS", "Fingerprinted", "Operator", "fingerprint_checkpoint", "materialize"]
