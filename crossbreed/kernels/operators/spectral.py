"""Singular directions of the deltas. What is no projection has none: there the weighted deltas are averaged."""

from collections.abc import Mapping, Sequence

import torch

from crossbreed.kernels.linalg.blas import matmul_by_rows
from crossbreed.kernels.linalg.decompositions import Factors, polar
from crossbreed.kernels.operators.linear import without_copies
from crossbreed.kernels.prepared.singular_factors import singular_factors_of
from crossbreed.kernels.programs import Affine, Dense
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.sources import LowRank
from crossbreed.types import Rule


def tsv_m(inputs: TensorInputs, rule: Rule) -> Affine | Dense:
    """Each expert's largest singular directions, turned until those of all experts are orthogonal (arXiv 2412.00081).

    The rank is shared by the experts that change the tensor. One of weight 0 keeps its share: weights are searched, and
    the merge must not jump where one passes through 0.
    """
    spec = OPERATOR_SPECS["tsv_m"]
    weights = spec.per_source(rule, "weight", inputs.expert_names)
    parts = spec.per_source(rule, "rank", inputs.expert_names)
    scale = spec.scalar(rule, "scale")
    if not inputs.is_projection:
        return mean_of_deltas(inputs, weights, scale)
    if not any(weights[expert.name] for expert in inputs.experts):
        return Affine(shares=())
    even = min(inputs.base.shape) // len(inputs.experts)
    ranks = {expert.name: max(1, int(parts[expert.name] * even)) for expert in inputs.experts}
    experts = sorted(inputs.experts, key=lambda expert: (expert.hash, ranks[expert.name], weights[expert.name]))
    if len(experts) == 1 and ranks[experts[0].name] >= _full_rank(experts[0]):
        return Affine(shares=((scale * weights[experts[0].name], experts[0]),))
    in_order = [ranks[expert.name] for expert in experts]
    directions, nums = inputs.cached("tsv_m", lambda: _directions(inputs, experts, in_order, max(1, even)), *in_order)
    of_each = [weights[expert.name] for expert, num in zip(experts, nums, strict=True) for _ in range(num)]
    values_R = directions.values_R * torch.tensor(of_each, device=inputs.base.device)
    return Dense(delta=matmul_by_rows(directions.left_MR * values_R, directions.right_NR.T), factor=scale)


def _directions(
    inputs: TensorInputs, experts: Sequence[ExpertTensor], ranks: Sequence[int], most: int
) -> tuple[Factors, tuple[int, ...]]:
    """Returns all experts' singular triplets with orthonormal directions, and how many are whose."""
    found = []
    for expert, rank in zip(experts, ranks, strict=True):
        found.append([part[..., :rank] for part in singular_factors_of(inputs, expert, most)])
    lefts, values, rights = zip(*found, strict=True)
    directions = Factors(polar(torch.cat(lefts, 1)), torch.cat(values), polar(torch.cat(rights, 1)))
    return directions, tuple(map(len, values))


def _full_rank(expert: ExpertTensor) -> int:
    return len(expert.value.a_RN) if isinstance(expert.value, LowRank) else min(expert.value.shape)


def mean_of_deltas(inputs: TensorInputs, weights: Mapping[str, float], scale: float) -> Affine:
    """W0 + scale sum(wi di) / N over all N experts: what matrix operators do to vectors and embeddings."""
    each = scale / max(1, len(inputs.expert_names))
    return Affine(shares=tuple((each * weight, expert) for weight, expert in without_copies(inputs.experts, weights)))
