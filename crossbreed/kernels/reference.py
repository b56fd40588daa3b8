"""What the operators mean, in fp64: slow, obvious, whole tensors at a time. The fast kernels are tested against it.

An adapter's tensor is W0 + s B A; nothing is grouped, blocked or rounded.
"""

from collections.abc import Iterator, Mapping

import torch

from crossbreed.kernels.materialize import bind_experts, parts_of
from crossbreed.kernels.tensors import Parent
from crossbreed.operators import OPERATOR_SPECS
from crossbreed.recipes import rule_finder
from crossbreed.sources import LowRank, Sources
from crossbreed.types import Recipe, Rule


def materialize_fp64(recipe: Recipe, sources: Sources) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields every floating-point tensor of the recipe in fp64, sorted by name."""
    experts, find_rule = bind_experts(recipe, sources), rule_finder(recipe)
    for name in sorted(sources.base.tensors):
        stored, rule = sources.base.tensor(name), find_rule(name)
        if not stored.is_floating_point():
            continue
        base = stored.double()
        if rule is None:
            yield name, base
            continue
        tensors = dict.fromkeys(experts, base)
        tensors |= {parent.name: full_tensor(parent, base) for parent in parts_of(name, experts)}
        yield (
            name,
            {"linear": linear, "task_arithmetic": task_arithmetic, "ties": ties}[rule.operator](
                base, tensors, rule, recipe.base
            ),
        )


def full_tensor(parent: Parent, base: torch.Tensor) -> torch.Tensor:
    """Returns an expert's tensor."""
    if isinstance(parent.value, LowRank):
        return base + parent.value.scale * parent.value.b_MR.double() @ parent.value.a_RN.double()
    return parent.value.double()


def linear(base: torch.Tensor, experts: Mapping[str, torch.Tensor], rule: Rule, base_name: str) -> torch.Tensor:
    """sum(wi Wi), base included, divided by sum(wi) if normalised."""
    spec, sources = OPERATOR_SPECS["linear"], {base_name: base, **experts}
    weights = spec.per_source(rule, "weight", tuple(sources))
    total = sum((weights[name] * tensor for name, tensor in sources.items()), torch.zeros_like(base))
    return total / sum(weights.values()) if spec.scalar(rule, "normalize") else total


def task_arithmetic(
    base: torch.Tensor, experts: Mapping[str, torch.Tensor], rule: Rule, base_name: str
) -> torch.Tensor:
    """W0 + scale sum(wi (Wi - W0))."""
    spec = OPERATOR_SPECS["task_arithmetic"]
    weights = spec.per_source(rule, "weight", tuple(experts))
    deltas = sum((weights[name] * (tensor - base) for name, tensor in experts.items()), torch.zeros_like(base))
    return base + spec.scalar(rule, "scale") * deltas


def ties(base: torch.Tensor, experts: Mapping[str, torch.Tensor], rule: Rule, base_name: str) -> torch.Tensor:
    """Trim, elect, merge."""
    spec = OPERATOR_SPECS["ties"]
    weights = spec.per_source(rule, "weight", tuple(experts))
    densities = spec.per_source(rule, "density", tuple(experts))
    ballots = [weights[name] * trim(tensor - base, densities[name]) for name, tensor in experts.items()]
    elected = torch.where(sum(ballots, torch.zeros_like(base)) >= 0, 1.0, -1.0).double()
    agrees = [(ballot.sign() == elected).double() for ballot in ballots]
    merged = sum((ballot * agree for ballot, agree in zip(ballots, agrees, strict=True)), torch.zeros_like(base))
    divisor = sum((weights[name] * agree for name, agree in zip(experts, agrees, strict=True)), torch.zeros_like(base))
    if spec.scalar(rule, "normalize"):
        merged = merged / torch.where(divisor == 0, 1.0, divisor)
    return base + spec.scalar(rule, "scale") * merged


def trim(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Keeps the max(1, int(density n)) largest magnitudes, of equal ones those that come first."""
    if density == 1:
        return delta
    largest = delta.abs().flatten().sort(descending=True, stable=True).indices
    kept = torch.zeros(delta.numel(), dtype=torch.float64)
    kept[largest[: max(1, int(density * delta.numel()))]] = 1
    return delta * kept.view_as(delta)
