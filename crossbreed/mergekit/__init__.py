"""mergekit 0.1.5's configurations: parsed (`reading`), planned (`plan`), and converted from and to recipes.

`recipe` converts a configuration to a recipe, `export` a recipe to a configuration. No tensors, no torch: input errors
are found from names and shapes. `crossbreed.mergekit.numerics` contains the arithmetic.
"""

from crossbreed.mergekit.config import MergeConfig, ModelReference
from crossbreed.mergekit.export import to_mergekit, why_not_mergekit
from crossbreed.mergekit.methods import METHODS, Method
from crossbreed.mergekit.plan import InputTensor, MergePlan, OutputTensor, plan_merge
from crossbreed.mergekit.reading import parse_config, read_config
from crossbreed.mergekit.vocabulary import Vocabulary

__all__ = [
    "METHODS",
    "InputTensor",
    "MergeConfig",
    "MergePlan",
    "Method",
    "ModelReference",
    "OutputTensor",
    "Vocabulary",
    "parse_config",
    "plan_merge",
    "read_config",
    "to_mergekit",
    "why_not_mergekit",
]
