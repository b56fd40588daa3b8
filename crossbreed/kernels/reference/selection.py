"""Elements that are selected by the values that the experts, or one of them, have there."""

import torch

from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule


def sce(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Select by variance, weigh by energy, erase what disagrees with the sum."""
    deltas = torch.stack(list(tensor.deltas.values()))
    topk = OPERATOR_SPECS["sce"].scalar(rule, "select_topk")
    if topk < 1:
        variance = len(deltas) * deltas.square().sum(0) - deltas.sum(0).square()  # times N^2
        order = variance.flatten().sort(descending=True, stable=True).indices
        mask = torch.zeros(variance.numel(), dtype=torch.float64)
        mask[order[: int(topk * int(variance.count_nonzero()))]] = 1
        deltas = deltas * mask.view_as(variance)
    energies = deltas.square().flatten(1).mean(1)
    if energies.sum() == 0:
        return tensor.base
    weights = (energies / energies.sum()).view(-1, *[1] * tensor.base.ndim)
    agree = (deltas.sign() == _elected(deltas.sum(0))).double()
    return tensor.base + (weights * deltas * agree).sum(0) / (weights * agree).sum(0).clamp_min(1e-6)


def arcee_fusion(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """The expert's elements whose importance is far above the median."""
    spec, (expert,) = OPERATOR_SPECS["arcee_fusion"], tensor.experts.values()
    after, before = expert.softmax(-1) + 1e-8, tensor.base.softmax(-1) + 1e-8
    divergence = (after * torch.log(after / before)).sum(-1, keepdim=True).clamp_min(0)
    delta = expert - tensor.base
    importance = delta.abs() * divergence
    ordered, last = importance.flatten().sort().values, importance.numel() - 1
    first, median, third = ordered[last // 4], ordered[last // 2], ordered[3 * last // 4]
    mask = importance >= median + spec.scalar(rule, "threshold") * (third - first)
    return tensor.base + spec.scalar(rule, "scale") * delta * mask


def nearswap(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """The expert where it is nearer than t, less and less of it where it is farther."""
    (delta,) = tensor.deltas.values()
    return (
        tensor.base + (OPERATOR_SPECS["nearswap"].scalar(rule, "t") / delta.abs().clamp_min(1e-6)).clamp(0, 1) * delta
    )


def ram(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """The mean of the deltas that are larger than epsilon."""
    return _reinforced(tensor, OPERATOR_SPECS["ram"].scalar(rule, "epsilon"), r=0.0, alpha=0.0)


def ramplus(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """The same, with unique elements enlarged."""
    spec = OPERATOR_SPECS["ramplus"]
    epsilon, r, alpha = (spec.scalar(rule, name) for name in ("epsilon", "r", "alpha"))
    return _reinforced(tensor, epsilon, r=r, alpha=alpha)


def _reinforced(tensor: Tensor, epsilon: float, *, r: float, alpha: float) -> torch.Tensor:
    changed = {name: delta.abs() > epsilon for name, delta in tensor.deltas.items()}
    count = torch.stack(list(changed.values())).sum(0)
    total = tensor.base.clone()
    for name, delta in tensor.deltas.items():
        unique, shared = changed[name] & (count == 1), changed[name] & (count > 1)
        ratio = float(shared.sum()) / max(float(unique.sum()), epsilon)
        total += delta * unique * (1 + r * min(max(ratio, 0.0), alpha)) + delta * shared / count.clamp_min(1)
    return total


def consensus(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Task arithmetic where enough experts vote for it."""
    spec = OPERATOR_SPECS["consensus"]
    weights = spec.per_source(rule, "weight", tuple(tensor.experts))
    lambdas = spec.per_source(rule, "tall_lambda", tuple(tensor.experts))
    parts = {name: weights[name] * delta for name, delta in tensor.deltas.items()}
    total = torch.stack(list(parts.values())).sum(0)
    votes = [part.abs() >= lambdas[name] * (total - part).abs() for name, part in parts.items()]
    return tensor.base + spec.scalar(rule, "scale") * total * (torch.stack(votes).sum(0) >= spec.scalar(rule, "k"))


def _elected(total: torch.Tensor) -> torch.Tensor:
    return torch.where(total >= 0, 1.0, -1.0).double()
