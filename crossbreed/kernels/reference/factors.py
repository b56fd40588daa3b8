"""Factors of LoRA adapters, added each for itself."""

import torch

from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule


def lora_factors(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """W0 + (sum wi si Bi)(sum wi ti Ai); A and B are the adapter's own, whatever way round the base has the matrix."""
    spec = OPERATOR_SPECS["lora_factors"]
    weights, densities = (spec.per_source(rule, name, tuple(tensor.experts)) for name in ("weight", "density"))
    lows = {name: low.turned if low.transposed else low for name, low in tensor.factors.items()}
    if not lows:
        return tensor.base
    a = torch.stack([weights[name] * largest(low.a_RN.double(), densities[name]) for name, low in lows.items()]).sum(0)
    b = torch.stack([weights[name] * low.scale * low.b_MR.double() for name, low in lows.items()]).sum(0)
    is_turned = any(low.transposed for low in tensor.factors.values())
    return tensor.base + ((b @ a).T if is_turned else b @ a)


def largest(a: torch.Tensor, density: float) -> torch.Tensor:
    """Keeps the int(density n) largest magnitudes; of equal ones the first."""
    order = sorted(range(a.numel()), key=lambda i: -abs(float(a.flatten()[i])))
    kept = torch.zeros(a.numel(), dtype=torch.float64)
    kept[order[: int(density * a.numel())]] = 1.0
    return a * kept.view(a.shape)
