"""Elements that compete for their place within an expert, and between experts.

Scores take four bytes an element and expert of the cache's budget; in a model that is too large for it they are made
again for every candidate. Quantiles of the whole model are counted, tensor by tensor.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import torch

from crossbreed.kernels.linalg.order_statistics import values_of_ranks
from crossbreed.kernels.programs import Affine, Elementwise
from crossbreed.kernels.tensors import TensorInputs, as_matrix, row_blocks
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule

_CLIPPED = 1e-4
"""Share of an expert's elements that is clipped, of the largest and of the smallest."""


def pcb(inputs: TensorInputs, rule: Rule) -> Elementwise | Affine:
    """Parameter competition balancing (arXiv 2410.02396): elements compete within experts and between them.

    Of N experts, with ti the deltas di clipped to the quantiles of their magnitudes at 1e-4 and 1 - 1e-4: an expert's
    score is exp(N minmax(|ti|)^2) tanh(di sum(dj)); its share si is the score, raised to the quantile at 1 - ratio and
    scaled to [0, 1]; W = W0 + sum(wi si ti) / sum(si). Scores are cached: a candidate with other weights costs a pass.
    """
    spec = OPERATOR_SPECS["pcb"]
    weights = spec.per_source(rule, "weight", inputs.expert_names)
    if not inputs.experts or not any(weights.values()):
        return Affine(shares=())
    whole, ratio = spec.word(rule, "scope") == "model", spec.scalar(rule, "ratio")
    clips, limits = _clips(inputs, whole), _limits(inputs, whole, ratio)
    scores = dict(zip((expert.name for expert in inputs.experts), _scores(inputs, whole), strict=True))
    absent = math.fsum(_share_of_zero(*limits[name]) for name in inputs.expert_names if name not in scores)
    entrants = sorted(inputs.experts, key=lambda expert: (expert.hash, weights[expert.name]))
    numbers: list[float] = []
    for name in (expert.name for expert in entrants):
        numbers += *clips[name], limits[name][0], _span(*limits[name]), weights[name]
    return Elementwise(
        body=_competing,
        experts=tuple(entrants),
        sides=tuple(scores[expert.name] for expert in entrants),
        numbers=(*numbers, absent),
    )


def _competing(
    base: torch.Tensor, deltas: Sequence[torch.Tensor], scores: Sequence[torch.Tensor], numbers: torch.Tensor
) -> torch.Tensor:
    merged, shares = [], []
    for i, (delta, score) in enumerate(zip(deltas, scores, strict=True)):
        low, high, least, span, weight = [numbers[5 * i + j] for j in range(5)]
        share = (torch.maximum(score, least) - least) / span
        clipped = torch.minimum(torch.maximum(delta.abs(), low), high) * delta.sign()
        merged.append(clipped * share * weight)
        shares.append(share)
    return reduce(torch.add, merged) / (reduce(torch.add, shares) + numbers[5 * len(deltas)]).clamp_min(1e-12)


def _scores(inputs: TensorInputs, whole: bool) -> tuple[torch.Tensor, ...]:
    """Returns how each expert's elements fare, within the expert times between experts."""

    def find() -> tuple[torch.Tensor, ...]:
        clips, num_experts = _clips(inputs, whole), len(inputs.expert_names)
        base_MN = as_matrix(inputs.base)
        scores = tuple(torch.empty(base_MN.shape, dtype=torch.float32, device=base_MN.device) for _ in inputs.experts)
        for rows in row_blocks(base_MN):
            base_KN = base_MN[rows].float()
            deltas = [expert.delta(base_KN, rows).double() for expert in inputs.experts]
            total = reduce(torch.add, deltas)
            for score, expert, delta in zip(scores, inputs.experts, deltas, strict=True):
                low, high = clips[expert.name]
                within = (delta.abs().clamp(low, high) - low) / _span(low, high)
                between = (delta * total).tanh() + (delta - delta)  # NaN for Inf, which a clip and a tanh would hide
                score[rows] = ((within.square() * num_experts).exp() * between).float()
        return scores

    return inputs.cached("pcb scores", find, inputs.expert_hashes, whole)


def _clips(inputs: TensorInputs, whole: bool) -> dict[str, tuple[float, float]]:
    """Returns the magnitudes to which each expert's deltas are clipped: the smallest and the largest are."""

    def pieces() -> Iterator[tuple[int, torch.Tensor]]:
        for tensor in _rivals(inputs, whole):
            own = {expert.name: expert for expert in tensor.experts}
            for i, name in enumerate(tensor.expert_names):
                yield i, own[name].whole_delta(tensor.base).abs_() if name in own else torch.zeros(tensor.base.shape)

    def ranks(size: int) -> tuple[int, int]:
        return int(_CLIPPED * size), size - 1 - int(_CLIPPED * size)

    return _of_experts(inputs, whole, "pcb clips", lambda: values_of_ranks(pieces, len(inputs.expert_names), ranks))


def _limits(inputs: TensorInputs, whole: bool, ratio: float) -> dict[str, tuple[float, float]]:
    """Returns each expert's score that the share `ratio` of its elements exceeds, and its highest."""

    def pieces() -> Iterator[tuple[int, torch.Tensor]]:
        for tensor in _rivals(inputs, whole):
            scores = _scores(tensor, whole) if tensor.experts else ()
            own = {expert.name: score for expert, score in zip(tensor.experts, scores, strict=True)}
            for i, name in enumerate(tensor.expert_names):
                yield i, own[name] if name in own else torch.zeros(tensor.base.shape)

    def ranks(size: int) -> tuple[int, int]:
        return min(int((1 - ratio) * size), size - 1), size - 1

    return _of_experts(
        inputs, whole, "pcb limits", lambda: values_of_ranks(pieces, len(inputs.expert_names), ranks), ratio
    )


def _rivals(inputs: TensorInputs, whole: bool) -> Iterator[TensorInputs]:
    """The tensors whose elements compete."""
    return inputs.model() if whole else iter([inputs])


def _of_experts(
    inputs: TensorInputs, whole: bool, what: str, find: Callable[[], list[tuple[float, float]]], *about: float
) -> dict[str, tuple[float, float]]:
    """Looks up a pair of numbers for each expert of the recipe, of one tensor or of the whole model."""
    key = (what, None if whole else inputs.name, inputs.base_hash, inputs.expert_hashes, *about)
    return dict(zip(inputs.expert_names, inputs.cache.get(key, find), strict=True))


def _span(low: float, high: float) -> float:
    """What min-max scaling divides by."""
    return high - low or 1.0


def _share_of_zero(least: float, highest: float) -> float:
    """The share of an expert where it leaves a tensor alone: of a score of 0."""
    return (max(least, 0.0) - least) / _span(least, highest)
