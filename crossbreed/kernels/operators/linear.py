"""Sums with one number for each source.

The deltas are summed first, in fp32, and the base is added last: a merge that falls exactly halfway between two numbers
of the recipe's dtype (averages of bfloat16 weights often do) is then rounded as exact arithmetic would round it.
"""

import math
from collections.abc import Mapping, Sequence

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.programs import Affine
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule


def linear(inputs: TensorInputs, rule: Rule) -> Affine:
    """Weighted sum or average of the sources, the base among them. Raises InvalidWeights if the weights sum to 0."""
    spec = OPERATOR_SPECS["linear"]
    weights = spec.per_source(rule, "weight", (inputs.base_name, *inputs.expert_names))
    divisor = math.fsum(weights.values()) if spec.scalar(rule, "normalize") else 1.0
    if divisor == 0:
        raise InvalidWeights("the weights of `linear` sum to 0 and cannot be normalised")
    shares = tuple((weight / divisor, expert) for weight, expert in without_copies(inputs.experts, weights))
    return Affine(shares=shares, of_base=math.fsum(weights.values()) / divisor)


def task_arithmetic(inputs: TensorInputs, rule: Rule) -> Affine:
    """The base plus scaled deltas of the experts."""
    spec = OPERATOR_SPECS["task_arithmetic"]
    weights = spec.per_source(rule, "weight", inputs.expert_names)
    scale = spec.scalar(rule, "scale")
    return Affine(shares=tuple((scale * weight, expert) for weight, expert in without_copies(inputs.experts, weights)))


def without_copies(experts: Sequence[ExpertTensor], weights: Mapping[str, float]) -> list[tuple[float, ExpertTensor]]:
    """Returns each content hash once with its weights summed: giving an expert two names changes no bit."""
    by_hash: dict[str, list[ExpertTensor]] = {}
    for expert in experts:
        by_hash.setdefault(expert.hash, []).append(expert)
    return [(math.fsum(weights[expert.name] for expert in copies), copies[0]) for copies in by_hash.values()]
