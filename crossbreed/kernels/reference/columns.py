"""A number for each of a matrix's columns (its inputs), or for each expert by what is known of it."""

import math

import torch

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.sources.naming import is_input_embedding
from crossbreed.types import Rule


def widen(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Importances of columns (of rows in an input embedding, of elements in a vector), shared out among the experts."""
    spec = OPERATOR_SPECS["widen"]
    t, s = spec.scalar(rule, "t"), spec.scalar(rule, "s")
    if tensor.base.ndim < 2:
        kinds = [torch.stack([delta.abs() for delta in tensor.deltas.values()])]
    else:
        turn = is_input_embedding(tensor.name)
        base = tensor.base.T if turn else tensor.base
        pairs = [_changes(base, expert.T if turn else expert) for expert in tensor.experts.values()]
        kinds = [torch.stack(changes) for changes in zip(*pairs, strict=True)]
    scores = []
    for importance in kinds:  # [experts, columns]
        is_large = importance > t * importance.mean(1, keepdim=True)
        scores.append(torch.where(is_large, s, importance.softmax(0)))
    score = torch.stack(scores).mean(0)
    if tensor.base.ndim > 1 and is_input_embedding(tensor.name):
        score = score[:, :, None]
    elif tensor.base.ndim > 1:
        score = score[:, None, :]
    return tensor.base + (score * torch.stack(list(tensor.deltas.values()))).sum(0)


def _changes(base: torch.Tensor, expert: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranks of the columns by change in length and in direction: which part of the columns changed less."""
    by_length, by_direction = [], []
    for a, b in zip(base.unbind(1), expert.unbind(1), strict=True):
        by_length.append((b.norm() - a.norm()).abs())
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=0, eps=1e-300)
        by_direction.append(torch.tensor(0.0) if torch.equal(a, b) else 1 - cosine)
    ranks = []
    for changes in (torch.stack(by_length), torch.stack(by_direction)):
        ranks.append((changes[None, :] < changes[:, None]).double().mean(1))
    return ranks[0], ranks[1]


def do_decouple(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """The sum of the columns' lengths times the sum of their directions; plain sums outside of projections."""
    spec, names = OPERATOR_SPECS["do_decouple"], tuple(tensor.experts)
    of_directions, of_lengths = spec.per_source(rule, "weight", names), spec.per_source(rule, "magnitude", names)
    length, direction = torch.zeros(1, dtype=torch.float64), torch.zeros_like(tensor.base)
    for name, delta in tensor.deltas.items():
        own = delta.norm(dim=0, keepdim=True) if tensor.is_projection else torch.ones(1, dtype=torch.float64)
        length = length + of_lengths[name] * own
        direction = direction + of_directions[name] * delta / torch.where(own == 0, 1, own)
    return tensor.base + length * direction * spec.scalar(rule, "scale")


def metrics_weighted(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """sum(metric^penalty Wi) / sum(metric^penalty)."""
    spec = OPERATOR_SPECS["metrics_weighted"]
    metrics, penalty = spec.per_source(rule, "metric", tuple(tensor.experts)), spec.scalar(rule, "penalty")
    weights = {name: math.pow(metric, penalty) for name, metric in metrics.items() if metric > 0}
    if not weights:
        raise InvalidWeights("every metric is 0")
    total = sum((tensor.experts[name] * weight for name, weight in weights.items()), torch.zeros_like(tensor.base))
    return total / sum(weights.values())


def passthrough(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """One source's tensor, scaled."""
    spec = OPERATOR_SPECS["passthrough"]
    sources = {tensor.base_name: tensor.base, **tensor.experts}
    return sources[spec.word(rule, "source")] * spec.scalar(rule, "scale")
