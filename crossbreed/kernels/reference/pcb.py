"""Elements that compete for their place within an expert, and between experts."""

import torch

from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule


def pcb(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """All tensors that compete in one row for each expert."""
    spec = OPERATOR_SPECS["pcb"]
    rivals = [tensor] if spec.word(rule, "scope") == "tensor" else list(tensor.model())
    weights = torch.tensor(list(spec.per_source(rule, "weight", tuple(tensor.experts)).values()))
    deltas_NP = torch.cat([torch.stack(list(one.deltas.values())).flatten(1) for one in rivals], 1)
    num_experts, size = deltas_NP.shape
    sizes_NP = deltas_NP.abs().sort(1).values
    clipped = int(1e-4 * size)
    low_N1, high_N1 = sizes_NP[:, clipped, None], sizes_NP[:, size - 1 - clipped, None]
    sizes_NP = deltas_NP.abs().clamp(low_N1, high_N1)
    scores_NP = torch.exp(num_experts * _scaled(sizes_NP) ** 2) * torch.tanh(deltas_NP * deltas_NP.sum(0))
    rank = min(int((1 - spec.scalar(rule, "ratio")) * size), size - 1)
    shares_NP = _scaled(scores_NP.clamp_min(scores_NP.sort(1).values[:, rank, None]))
    merged_P = (weights[:, None] * shares_NP * sizes_NP * deltas_NP.sign()).sum(0) / shares_NP.sum(0).clamp_min(1e-12)
    parts = torch.split(merged_P, [one.base.numel() for one in rivals])
    return tensor.base + parts[[one.name for one in rivals].index(tensor.name)].view_as(tensor.base)


def _scaled(values_NP: torch.Tensor) -> torch.Tensor:
    """To [0, 1]; 0 where all of an expert's values are equal."""
    low_N1, high_N1 = values_NP.amin(1, keepdim=True), values_NP.amax(1, keepdim=True)
    return (values_NP - low_N1) / torch.where(high_N1 == low_N1, 1.0, high_N1 - low_N1)
