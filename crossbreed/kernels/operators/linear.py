"""Sums with one number for each source.

The deltas are summed first, in fp32, and the base is added last: a merge that falls exactly halfway between two numbers
of the recipe's dtype (averages of bfloat16 weights often do) is then rounded as exact arithmetic would round it.
"""

import math
from collections.abc import Mapping, Sequence

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.programs import Affine, Operator
from crossbreed.kernels.tensors import Parent, Parents
from crossbreed.operators import OPERATOR_SPECS
from crossbreed.types import Rule


def linear(parents: Parents, rule: Rule) -> Affine:
    """Weighted sum or average of the sources, the base among them. Raises InvalidWeights if the weights sum to 0."""
    spec = OPERATOR_SPECS["linear"]
    weights = spec.per_source(rule, "weight", (parents.base_name, *parents.expert_names))
    divisor = math.fsum(weights.values()) if spec.scalar(rule, "normalize") else 1.0
    if divisor == 0:
        raise InvalidWeights("the weights of `linear` sum to 0 and cannot be normalised")
    shares = tuple((weight / divisor, parent) for weight, parent in without_copies(parents.experts, weights))
    return Affine(shares=shares, of_base=math.fsum(weights.values()) / divisor)


def task_arithmetic(parents: Parents, rule: Rule) -> Affine:
    """The base plus scaled deltas of the experts."""
    spec = OPERATOR_SPECS["task_arithmetic"]
    weights = spec.per_source(rule, "weight", parents.expert_names)
    scale = spec.scalar(rule, "scale")
    return Affine(shares=tuple((scale * weight, parent) for weight, parent in without_copies(parents.experts, weights)))


def without_copies(experts: Sequence[Parent], weights: Mapping[str, float]) -> list[tuple[float, Parent]]:
    """Returns each content hash once with its weights summed: giving an expert two names changes no bit."""
    by_hash: dict[str, list[Parent]] = {}
    for parent in experts:
        by_hash.setdefault(parent.hash, []).append(parent)
    return [(math.fsum(weights[parent.name] for parent in copies), copies[0]) for copies in by_hash.values()]


OPERATORS: Mapping[str, Operator] = {
    "linear": linear,
    "task_arithmetic": task_arithmetic,
}
