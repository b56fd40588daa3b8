"""Singular directions of the deltas. What is no projection has none: there the weighted deltas are averaged."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from crossbreed.kernels.basis_core import Factors, polar, singular_factors
from crossbreed.kernels.blas import product
from crossbreed.kernels.operators.linear import without_copies
from crossbreed.kernels.programs import Affine, Dense, Operator
from crossbreed.kernels.tensors import Parent, Parents
from crossbreed.operators import OPERATOR_SPECS
from crossbreed.sources import LowRank
from crossbreed.types import Rule


def tsv_m(parents: Parents, rule: Rule) -> Affine | Dense:
    """Each expert's largest singular directions, turned until those of all experts are orthogonal (arXiv 2412.00081).

    The rank is shared by the experts that change the tensor. One of weight 0 keeps its share: weights are searched, and
    the merge must not jump where one passes through 0.
    """
    spec = OPERATOR_SPECS["tsv_m"]
    weights = spec.per_source(rule, "weight", parents.expert_names)
    parts = spec.per_source(rule, "rank", parents.expert_names)
    scale = spec.scalar(rule, "scale")
    if not parents.is_projection:
        return mean_of_deltas(parents, weights, scale)
    if not any(weights[parent.name] for parent in parents.experts):
        return Affine(shares=())
    even = min(parents.base.shape) // len(parents.experts)
    ranks = {parent.name: max(1, int(parts[parent.name] * even)) for parent in parents.experts}
    experts = sorted(parents.experts, key=lambda parent: (parent.hash, ranks[parent.name], weights[parent.name]))
    if len(experts) == 1 and ranks[experts[0].name] >= _full_rank(experts[0]):
        return Affine(shares=((scale * weights[experts[0].name], experts[0]),))
    in_order = [ranks[parent.name] for parent in experts]
    directions, nums = parents.fact("tsv_m", lambda: _directions(parents, experts, in_order, max(1, even)), *in_order)
    of_each = [weights[parent.name] for parent, num in zip(experts, nums, strict=True) for _ in range(num)]
    values_R = directions.values_R * torch.tensor(of_each, device=parents.base.device)
    return Dense(delta=product(directions.left_MR * values_R, directions.right_NR.T), factor=scale)


def _directions(
    parents: Parents, experts: Sequence[Parent], ranks: Sequence[int], most: int
) -> tuple[Factors, tuple[int, ...]]:
    """Returns all experts' singular triplets with orthonormal directions, and how many are whose."""
    found = []
    for parent, rank in zip(experts, ranks, strict=True):
        own = parents.fact_of(parent, "svd", partial(singular_factors, parent, parents.base, most), most)
        found.append([part[..., :rank] for part in own])
    lefts, values, rights = zip(*found, strict=True)
    directions = Factors(polar(torch.cat(lefts, 1)), torch.cat(values), polar(torch.cat(rights, 1)))
    return directions, tuple(map(len, values))


def _full_rank(parent: Parent) -> int:
    return len(parent.value.a_RN) if isinstance(parent.value, LowRank) else min(parent.value.shape)


def mean_of_deltas(parents: Parents, weights: Mapping[str, float], scale: float) -> Affine:
    """W0 + scale sum(wi di) / N over all N experts: what matrix operators do to vectors and embeddings."""
    each = scale / max(1, len(parents.expert_names))
    return Affine(shares=tuple((each * weight, parent) for weight, parent in without_copies(parents.experts, weights)))


OPERATORS: Mapping[str, Operator] = {
    "tsv_m": tsv_m,
}
