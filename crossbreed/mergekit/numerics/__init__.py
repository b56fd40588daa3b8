"""A mergekit plan becomes weights with mergekit 0.1.5's own numbers: dtypes, adapters, rows of tokens, then the method.

`crossbreed.mergekit` says what each tensor is made from; `stream` reads that, and `arithmetic` merges it.
"""

from crossbreed.mergekit.numerics.models import OpenModel, open_models
from crossbreed.mergekit.numerics.stream import merge, merged_tensors

__all__ = ["OpenModel", "merge", "merged_tensors", "open_models"]
