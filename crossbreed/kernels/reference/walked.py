"""Settings of a regression, by whole matrices and an inverse."""

import torch

from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule


def anchored_regression(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """(T + l a A) (C + l I)^-1."""
    spec = OPERATOR_SPECS["anchored_regression"]
    if not tensor.hashes:
        return tensor.base
    if tensor.walked is None:
        rest = spec.word(rule, "rest")
        return tensor.experts[rest] if rest in tensor.hashes else tensor.base
    values_N, basis_NN, *turned = tensor.walked
    own, experts, anchor = (part @ basis_NN for part in turned)
    share, scale = spec.scalar(rule, "own"), spec.scalar(rule, "anchor_scale")
    ridge = spec.scalar(rule, "ridge") * values_N.mean()
    c = basis_NN.T @ values_N.diag() @ basis_NN + ridge * torch.eye(len(values_N), dtype=torch.float64)
    targets = share * own + (1 - share) * experts
    solved: torch.Tensor = torch.linalg.solve(c, targets + ridge * scale * anchor, left=False)
    return tensor.base + solved
