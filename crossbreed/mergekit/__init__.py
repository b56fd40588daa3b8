"""mergekit 0.1.5's configurations: read strictly (`config`), planned (`plan`), from and to our words.

`recipe` says a configuration as a recipe, `export` a recipe as a configuration. No tensors, no torch: what can be
refused is refused from names and shapes. `crossbreed.kernels.mergekit` has the arithmetic.
"""

from crossbreed.mergekit.config import MergeConfig, ModelReference, parse_config, read_config
from crossbreed.mergekit.export import to_mergekit, why_not_mergekit
from crossbreed.mergekit.methods import METHODS, Method
from crossbreed.mergekit.plan import InputTensor, MergePlan, OutputTensor, plan_merge
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
