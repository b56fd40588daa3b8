"""Methods that keep or damp elements, depending on the experts' values there."""

from collections.abc import Mapping

import torch

from crossbreed.mergekit.numerics.inputs import Inputs, Merge
from crossbreed.mergekit.numerics.sums import elected_sign

SAMPLE = 1_000_000
"""Of a larger tensor arcee_fusion's quantiles are those of a sample of as many elements."""


def sce(inputs: Inputs) -> torch.Tensor:
    """Selects where experts differ most, weighs them by energy, erases disagreement (arXiv 2408.07990)."""
    base, top = inputs.base, inputs.number("select_topk")
    if not inputs.experts:
        return base
    deltas = torch.stack(inputs.deltas)
    if top < 1:
        deltas = deltas * _most_varied(deltas, top)
    shares = _energy_shares(deltas).view(-1, *[1] * base.ndim)
    agrees = deltas.sign() == elected_sign(deltas)
    mixed = (deltas * shares * agrees).sum(0)
    return base + mixed / (shares * agrees).sum(0).clamp(min=1e-6)


def _most_varied(deltas: torch.Tensor, top: float) -> torch.Tensor:
    variance = deltas.var(0, unbiased=False)
    num_kept = int(variance.count_nonzero() * top)
    mask = torch.zeros_like(variance).flatten()
    mask[variance.flatten().topk(max(0, num_kept)).indices] = 1
    return mask.view_as(variance)


def _energy_shares(deltas: torch.Tensor) -> torch.Tensor:
    energies = (deltas**2).view(len(deltas), -1).mean(1)
    total = energies.sum()
    return torch.full_like(energies, 1 / len(energies)) if total.abs() < 1e-6 else energies / total


def arcee_fusion(inputs: Inputs) -> torch.Tensor:
    """Takes important elements of the other: change times divergence of the row's softmax, above 1.5 IQR."""
    (other,), base = inputs.experts, inputs.base
    after, before = other.tensor.softmax(-1) + 1e-8, base.softmax(-1) + 1e-8
    divergence = (after * (after / before).log()).sum(-1, keepdim=True)
    delta = other.tensor - base
    importance = delta.abs() * divergence
    low, median, high = _quartiles(importance.flatten(), inputs.generator)
    matters = importance.ge(median + 1.5 * (high - low))
    return base + delta * matters.float()


def _quartiles(values: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    if values.numel() > SAMPLE:
        values = values[torch.randint(values.numel(), (SAMPLE,), generator=generator, device=values.device)]
    return values.sort().values[[int(part * (values.numel() - 1)) for part in (0.25, 0.5, 0.75)]]


def nearswap(inputs: Inputs) -> torch.Tensor:
    """Moves the base towards the other, by less where they are farther apart: a delta cut to t."""
    (other,), base = inputs.experts, inputs.base
    share = (inputs.number("t") / (base - other.tensor).abs().clamp(min=1e-6)).clamp(0, 1)
    return (1 - share) * base + share * other.tensor


def ram(inputs: Inputs) -> torch.Tensor:
    """Keeps deltas that only one expert has; averages others over the experts that have one (arXiv 2601.13572)."""
    if not inputs.experts:
        return inputs.base
    deltas, unique, shared = _alone_and_together(inputs)
    return inputs.base + (deltas * unique + deltas * shared / shared.sum(0).clamp(min=1)).sum(0)


def ramplus_tl(inputs: Inputs) -> torch.Tensor:
    """As `ram`; enlarges deltas that only one expert has, the more of its changes are shared; fp32 from there on."""
    if not inputs.experts:
        return inputs.base
    deltas, unique, shared = _alone_and_together(inputs)
    num_unique, num_shared = (part.view(len(part), -1).sum(1).float() for part in (unique, shared))
    excess = (num_shared / num_unique.clamp(min=inputs.number("epsilon"))).clamp(0, inputs.number("alpha"))
    factors = (1 + inputs.number("r") * excess).view(-1, *[1] * inputs.base.ndim)
    return inputs.base + (deltas * unique * factors + deltas * shared / shared.sum(0).clamp(min=1)).sum(0)


def _alone_and_together(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Deltas; where one is the only one that is more than noise; where it is one of several."""
    deltas = torch.stack(inputs.deltas)
    changes = deltas.abs() > inputs.number("epsilon")
    count = changes.sum(0)
    return deltas, changes & (count == 1), changes & (count > 1)


MERGES: Mapping[str, Merge] = {
    "sce": sce,
    "arcee_fusion": arcee_fusion,
    "nearswap": nearswap,
    "ram": ram,
    "ramplus_tl": ramplus_tl,
}
