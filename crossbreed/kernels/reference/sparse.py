"""Thin out, elect, merge."""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from crossbreed.kernels.prepared.random_masks import philox_key
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule

Deltas = Mapping[str, torch.Tensor]


def ties(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Keep the largest elements of each tensor or of the model, elect, merge."""
    spec = OPERATOR_SPECS["ties"]
    densities = spec.per_source(rule, "density", tuple(tensor.experts))
    if spec.word(rule, "trim") == "model":
        kept = {name: _trimmed_in_model(tensor, name, density) for name, density in densities.items()}
    else:
        kept = {name: trim(delta, densities[name]) for name, delta in tensor.deltas.items()}
    return _elect(tensor, kept, rule)


def dare_linear(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Drop at random, add."""
    return _add(tensor, _each(tensor, rule, _dropped), rule)


def dare_ties(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Drop at random, elect, merge."""
    return _elect(tensor, _each(tensor, rule, _dropped), rule)


def della_linear(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Drop at random by rank, add."""
    return _add(tensor, _each(tensor, rule, _dropped_by_rank), rule)


def della(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Drop at random by rank, elect, merge."""
    return _elect(tensor, _each(tensor, rule, _dropped_by_rank), rule)


def breadcrumbs(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Drop the outliers and the smallest, add."""
    return _add(tensor, _each(tensor, rule, _between), rule)


def breadcrumbs_ties(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Drop the outliers and the smallest, elect, merge."""
    return _elect(tensor, _each(tensor, rule, _between), rule)


def _each(
    tensor: Tensor, rule: Rule, thin: Callable[[Tensor, str, Rule, float], torch.Tensor]
) -> dict[str, torch.Tensor]:
    densities = OPERATOR_SPECS[rule.operator].per_source(rule, "density", tuple(tensor.experts))
    deltas = tensor.deltas
    return {
        name: deltas[name] if density >= 1 or name not in tensor.hashes else thin(tensor, name, rule, density)
        for name, density in densities.items()
    }


def _add(tensor: Tensor, deltas: Deltas, rule: Rule) -> torch.Tensor:
    spec = OPERATOR_SPECS[rule.operator]
    weights = spec.per_source(rule, "weight", tuple(deltas))
    total = sum((weights[name] * delta for name, delta in deltas.items()), torch.zeros_like(tensor.base))
    divisor = sum(weights.values()) if spec.scalar(rule, "normalize") else 1.0
    return tensor.base + spec.scalar(rule, "scale") * total / (divisor if abs(divisor) >= 1e-8 else 1.0)


def _elect(tensor: Tensor, deltas: Deltas, rule: Rule) -> torch.Tensor:
    spec = OPERATOR_SPECS[rule.operator]
    weights = spec.per_source(rule, "weight", tuple(deltas))
    votes = [weights[name] * delta for name, delta in deltas.items()]
    is_counted = spec.param("consensus") is not None and spec.word(rule, "consensus") == "count"
    ballots = [vote.sign() for vote in votes] if is_counted else votes
    zero = torch.zeros_like(tensor.base)
    elected = torch.where(sum(ballots, zero) >= 0, 1.0, -1.0).double()
    agrees = [(vote.sign() == elected).double() for vote in votes]
    agreeing = [vote * agree for vote, agree in zip(votes, agrees, strict=True)]
    if spec.param("pick") is not None and spec.word(rule, "pick") == "largest":
        merged = torch.stack([part.abs() for part in agreeing]).amax(0) * elected
    else:
        merged = sum(agreeing, zero)
        divisor = sum((weights[name] * agree for name, agree in zip(deltas, agrees, strict=True)), zero)
        if spec.scalar(rule, "normalize"):
            merged = merged / torch.where(divisor == 0, 1.0, divisor)
    return tensor.base + spec.scalar(rule, "scale") * merged


def trim(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Keeps the max(1, int(density n)) largest magnitudes, of equal ones those that come first."""
    return delta if density >= 1 else delta * _top(delta, max(1, int(density * delta.numel())))


def _top(delta: torch.Tensor, keep: int) -> torch.Tensor:
    largest = delta.abs().flatten().sort(descending=True, stable=True).indices
    kept = torch.zeros(delta.numel(), dtype=torch.float64)
    kept[largest[:keep]] = 1
    return kept.view_as(delta)


def _trimmed_in_model(tensor: Tensor, expert: str, density: float) -> torch.Tensor:
    names, deltas = zip(*((other.name, other.deltas[expert]) for other in tensor.model()), strict=True)
    trimmed = trim(torch.cat([delta.flatten() for delta in deltas]), density)
    parts = torch.split(trimmed, [delta.numel() for delta in deltas])
    return parts[names.index(tensor.name)].view_as(tensor.base)


def _between(tensor: Tensor, expert: str, rule: Rule, density: float) -> torch.Tensor:
    delta, size = tensor.deltas[expert], tensor.base.numel()
    gamma = min(OPERATOR_SPECS[rule.operator].per_source(rule, "gamma", (expert,))[expert], 1 - density)
    reaches = (
        trim(torch.ones_like(delta), 1.0)
        if density + gamma >= 1
        else _top(delta, max(1, int((density + gamma) * size)))
    )
    return delta * (reaches - _top(delta, int(gamma * size)))


def _random(tensor: Tensor, expert: str, rule: Rule) -> torch.Tensor:
    """A number from 0 to 65,535 for each element."""
    seed, size = int(OPERATOR_SPECS[rule.operator].scalar(rule, "seed")), tensor.base.numel()
    key = np.array(philox_key(seed, tensor.name, tensor.hashes[expert]), dtype=np.uint64)
    words = np.random.Philox(key=key).random_raw((size + 3) // 4)
    parts = [(words >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4)]
    return torch.from_numpy(np.stack(parts, 1).reshape(-1)[:size].astype(np.float64)).view_as(tensor.base)


def _dropped(tensor: Tensor, expert: str, rule: Rule, density: float) -> torch.Tensor:
    kept = (_random(tensor, expert, rule) < density * 65536).double()
    is_rescaled = OPERATOR_SPECS[rule.operator].scalar(rule, "rescale")
    return tensor.deltas[expert] * kept / (density if is_rescaled else 1.0)


def _dropped_by_rank(tensor: Tensor, expert: str, rule: Rule, density: float) -> torch.Tensor:
    spec, delta = OPERATOR_SPECS[rule.operator], tensor.deltas[expert]
    rows = delta.abs().reshape(-1, delta.shape[-1]) if delta.ndim > 1 else delta.abs().reshape(1, -1)
    width = rows.shape[1]
    places = rows.argsort(dim=1, stable=True).argsort(dim=1)
    ranks = (places * 255 // (width - 1) if width > 1 else torch.full_like(places, 128)).double() / 255
    epsilon = spec.per_source(rule, "epsilon", (expert,))[expert]
    probability = (density - epsilon + 2 * epsilon * ranks).view_as(delta)
    kept = (_random(tensor, expert, rule) < probability * 65536).double()
    return delta * kept / (probability if spec.scalar(rule, "rescale") else 1.0)
