"""Elements that are selected by the values that the experts, or one of them, have there.

As far as possible, what selects is found once of the sources: a candidate then costs one pass of products and compares.
Exponentials, softmaxes and sums over tensors are made in fp64 outside of that pass, so that no processor's fp32
exponential and no number of threads decides about an element.
"""

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import chain, combinations

import numpy as np
import torch

from crossbreed.kernels.linalg.order_statistics import find_threshold, select
from crossbreed.kernels.programs import Affine, Elementwise
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs, as_matrix, row_blocks
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule

_BASE = Affine(shares=())
_CHUNK = 1 << 17
"""Elements whose squares are summed at a time: fixed, for the last bit of a sum depends on it."""


def sce(inputs: TensorInputs, rule: Rule) -> Elementwise | Affine:
    """Select where experts differ, calculate weights, erase minorities (FuseChat-3, arXiv 2408.07990).

    Of N experts whose selected deltas are di, expert i weighs sum(di^2) / sum(sum(dj^2)). However small the deltas
    are, that is a ratio: there is no floor below which experts weigh alike.
    """
    if not inputs.experts:
        return _BASE
    topk = OPERATOR_SPECS["sce"].scalar(rule, "select_topk")
    energies, mask = inputs.cached("sce", lambda: _selected(inputs, topk), len(inputs.expert_names), topk)
    total = math.fsum(energies)
    shares = tuple(energy / total if total != 0 else 0.0 for energy in energies)
    sides = () if mask is None else (mask,)
    return Elementwise(body=_agreed, experts=inputs.experts, sides=sides, numbers=shares)


def arcee_fusion(inputs: TensorInputs, rule: Rule) -> Elementwise | Affine:
    """Take from the expert what is important: |d| KL(softmax(W1's row) || softmax(W0's row)).

    That is at least `threshold` interquartile ranges above the tensor's median. A vector is a row.
    """
    if (expert := _only(inputs)) is None:
        return _BASE
    spec = OPERATOR_SPECS["arcee_fusion"]
    divergence, first, median, third = inputs.cached("arcee fusion", lambda: _importance(inputs, expert))
    return Elementwise(
        body=_important,
        experts=(expert,),
        sides=(divergence.expand(-1, inputs.base.numel() // len(divergence)),),
        numbers=(median + spec.scalar(rule, "threshold") * (third - first),),
        factor=spec.scalar(rule, "scale"),
    )


def nearswap(inputs: TensorInputs, rule: Rule) -> Elementwise | Affine:
    """Move the base towards the expert, each element by `t` at most."""
    if (expert := _only(inputs)) is None:
        return _BASE
    return Elementwise(body=_near, experts=(expert,), numbers=(OPERATOR_SPECS["nearswap"].scalar(rule, "t"),))


def ram(inputs: TensorInputs, rule: Rule) -> Elementwise:
    """Average each element over the experts that changed it (arXiv 2601.13572)."""
    epsilon = OPERATOR_SPECS["ram"].scalar(rule, "epsilon")
    return Elementwise(body=_reinforced, experts=inputs.experts, numbers=(epsilon, *[0.0] * len(inputs.experts)))


def ramplus(inputs: TensorInputs, rule: Rule) -> Elementwise | Affine:
    """The same, and what expert i alone changed is multiplied by 1 + r min(shared_i / unique_i, alpha).

    The ratio is of numbers of elements of this tensor; mergekit calls it `ramplus_tl`.
    """
    spec = OPERATOR_SPECS["ramplus"]
    if not inputs.experts:
        return _BASE
    epsilon, r, alpha = (spec.scalar(rule, name) for name in ("epsilon", "r", "alpha"))
    counts = inputs.cached("ram", lambda: _overlap(inputs, epsilon), epsilon)
    # An expert with no unique element has nothing that its gain could multiply.
    gains = (r * min(shared / max(1, unique), alpha) for shared, unique in counts)
    return Elementwise(body=_reinforced, experts=inputs.experts, numbers=(epsilon, *gains))


def consensus(inputs: TensorInputs, rule: Rule) -> Elementwise:
    """Keep of task arithmetic what at least k experts vote for (arXiv 2405.07813).

    With xi = wi di and x their sum, expert i votes where |xi| >= tall_lambda_i |x - xi|, its TALL mask. An expert
    without a weight, or that leaves the tensor alone, has no vote where x is not 0.
    """
    spec = OPERATOR_SPECS["consensus"]
    weights = spec.per_source(rule, "weight", inputs.expert_names)
    lambdas = spec.per_source(rule, "tall_lambda", inputs.expert_names)
    voters = [expert for expert in inputs.experts if weights[expert.name] != 0]
    voters.sort(key=lambda expert: (expert.hash, weights[expert.name], lambdas[expert.name]))
    numbers = [(weights[voter.name], lambdas[voter.name]) for voter in voters]
    return Elementwise(
        body=_voted,
        experts=tuple(voters),
        numbers=(*(number for own in numbers for number in own), spec.scalar(rule, "k")),
        factor=spec.scalar(rule, "scale"),
    )


def _only(inputs: TensorInputs) -> ExpertTensor | None:
    """The one expert; None where it leaves the tensor alone."""
    assert len(inputs.expert_names) == 1, "parse_recipe lets no other number through"
    return inputs.experts[0] if inputs.experts else None


# Bodies: (W0, deltas, sides, numbers) -> what is added to W0.


def _agreed(
    base: torch.Tensor, deltas: Sequence[torch.Tensor], masks: Sequence[torch.Tensor], shares: torch.Tensor
) -> torch.Tensor:
    selected = [delta * masks[0].to(torch.float32) for delta in deltas] if masks else deltas
    sign = torch.where(reduce(torch.add, selected) < 0, -1.0, 1.0)
    agreeing = [(delta * sign).clamp_min(0.0) for delta in selected]
    merged = reduce(torch.add, [part * shares[i] for i, part in enumerate(agreeing)])
    divisor = reduce(torch.add, [(part > 0).to(torch.float32) * shares[i] for i, part in enumerate(agreeing)])
    return merged / divisor.clamp_min(1e-6) * sign


def _important(
    base: torch.Tensor, deltas: Sequence[torch.Tensor], divergences: Sequence[torch.Tensor], numbers: torch.Tensor
) -> torch.Tensor:
    return deltas[0] * (deltas[0].abs() * divergences[0] >= numbers[0]).to(torch.float32)


def _near(
    base: torch.Tensor, deltas: Sequence[torch.Tensor], sides: Sequence[torch.Tensor], numbers: torch.Tensor
) -> torch.Tensor:
    return deltas[0] * (numbers[0] / deltas[0].abs().clamp_min(1e-6)).clamp_max(1.0)  # Inf t / Inf is NaN


def _reinforced(
    base: torch.Tensor, deltas: Sequence[torch.Tensor], sides: Sequence[torch.Tensor], numbers: torch.Tensor
) -> torch.Tensor:
    changed = [_is_changed(delta, numbers[0]).to(torch.float32) for delta in deltas]
    count = reduce(torch.add, changed)
    alone = (count == 1).to(torch.float32)
    gains = [alone * numbers[i + 1] + 1.0 for i in range(len(deltas))]
    merged = reduce(torch.add, [delta * part * gain for delta, part, gain in zip(deltas, changed, gains, strict=True)])
    return merged / count.clamp_min(1.0)


def _voted(
    base: torch.Tensor, deltas: Sequence[torch.Tensor], sides: Sequence[torch.Tensor], numbers: torch.Tensor
) -> torch.Tensor:
    parts = [delta * numbers[2 * i] for i, delta in enumerate(deltas)]
    total = reduce(torch.add, parts)
    votes = [part.abs() >= (total - part).abs() * numbers[2 * i + 1] for i, part in enumerate(parts)]
    count = reduce(torch.add, [vote.to(torch.float32) for vote in votes])
    return total * (count >= numbers[2 * len(deltas)]).to(torch.float32)


def _is_changed(delta: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    return ~(delta.abs() <= epsilon)  # NaN is a change


# What is found once of the sources.


def _deltas(inputs: TensorInputs) -> Iterator[tuple[slice, list[torch.Tensor]]]:
    """Yields the rows of each block, and the fp32 deltas there."""
    base_MN = as_matrix(inputs.base)
    for rows in row_blocks(base_MN, _CHUNK):
        base_KN = base_MN[rows].float()
        yield rows, [expert.delta(base_KN, rows) for expert in inputs.experts]


def _selected(inputs: TensorInputs, topk: float) -> tuple[tuple[float, ...], torch.Tensor | None]:
    """Returns each expert's sum of squares over the selected elements, and which these are; None: all."""
    mask_MN = None if topk >= 1 else _most_disputed(inputs, topk)
    energies: list[list[float]] = [[] for _ in inputs.experts]
    for rows, deltas in _deltas(inputs):
        for energy, delta in zip(energies, deltas, strict=True):
            selected = delta.double() if mask_MN is None else delta.double() * mask_MN[rows]
            energy.append(_row_sums(selected.square().view(1, -1)).item())
    return tuple(map(math.fsum, energies)), mask_MN


def _most_disputed(inputs: TensorInputs, topk: float) -> torch.Tensor:
    """Returns where the variance over all experts is among the largest: a share `topk` of those that are not 0.

    Of equal ones, those with the lowest flat index. The squared differences of all pairs add up to N^2 times the
    variance: a sum that cannot cancel, so it is 0 where experts agree, and only there.
    """
    absent = len(inputs.expert_names) - len(inputs.experts)
    spread_MN = torch.empty(as_matrix(inputs.base).shape, dtype=torch.float32, device=inputs.base.device)
    for rows, deltas in _deltas(inputs):
        wide = [delta.double() for delta in deltas]
        pairs = ((one - other).square() for one, other in combinations(wide, 2))  # of 100 experts 4950: one at a time
        spread_MN[rows] = reduce(torch.add, chain(pairs, (one.square() * absent for one in wide))).sqrt().float()
    keep = int(topk * int(spread_MN.count_nonzero()))
    if keep == 0:
        return torch.zeros_like(spread_MN, dtype=torch.bool)
    threshold = find_threshold(spread_MN, keep)
    mask_MN = ~(spread_MN <= threshold.magnitude)
    mask_MN.view(-1)[: threshold.end] |= spread_MN.view(-1)[: threshold.end] == threshold.magnitude
    return mask_MN


def _importance(inputs: TensorInputs, expert: ExpertTensor) -> tuple[torch.Tensor, float, float, float]:
    """Returns the divergence [R, 1] of each row of the last dimension, and the importances' quartiles."""
    width = inputs.base.shape[-1] if inputs.base.ndim > 1 else inputs.base.numel()
    base_RC = inputs.base.reshape(-1, width)
    delta_RC = expert.whole_delta(inputs.base).view(base_RC.shape)
    divergence_R1 = torch.empty(len(base_RC), 1, device=inputs.base.device)
    for rows in row_blocks(base_RC, _CHUNK):
        base_KC = base_RC[rows].double()
        after, before = ((weights.softmax(1) + 1e-8) for weights in (base_KC + delta_RC[rows], base_KC))
        divergence_R1[rows] = _row_sums(after * (after / before).log()).float()
    divergence_R1.clamp_min_(0.0)  # as it is, but for rounding
    bits = (delta_RC * divergence_R1).abs_().view(-1).cpu().numpy().view(np.int32)  # ordered as the floats are
    last = len(bits) - 1
    first, median, third = (select(bits, last * i // 4).view(np.float32).item() for i in (1, 2, 3))
    return divergence_R1, first, median, third


def _overlap(inputs: TensorInputs, epsilon: float) -> list[tuple[int, int]]:
    """Returns how many elements each expert changed that another did too, and how many that none did."""
    bound = torch.tensor(epsilon, dtype=torch.float32)
    counts = torch.zeros(len(inputs.experts), 2, dtype=torch.int64)
    for _, deltas in _deltas(inputs):
        changed = torch.stack([_is_changed(delta, bound) for delta in deltas]).flatten(1)
        is_shared = changed.sum(0) > 1
        counts += torch.stack([(changed & is_shared).sum(1), (changed & ~is_shared).sum(1)], 1).cpu()
    return [(shared, unique) for shared, unique in counts.tolist()]


def _row_sums(matrix: torch.Tensor) -> torch.Tensor:
    """Returns [rows, 1], by numpy: torch's sums depend on the number of threads."""
    return torch.from_numpy(matrix.cpu().numpy().sum(1, keepdims=True)).to(matrix.device)
