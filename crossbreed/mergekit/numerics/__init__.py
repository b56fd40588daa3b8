"""Merges a mergekit plan with the arithmetic of mergekit 0.1.5: dtypes, adapters, rows of tokens, then the method.

`crossbreed.mergekit` lists the inputs of each tensor; `stream` reads them and `arithmetic` merges them.
"""

from crossbreed.mergekit.numerics.models import OpenModel, open_models
from crossbreed.mergekit.numerics.stream import merge, merged_tensors

__all__ = ["OpenModel", "merge", "merged_tensors", "open_models"]
