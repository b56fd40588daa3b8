"""A number for each of a matrix's columns (its inputs), or for each expert by what is known of it.

Shapes: M rows, N columns (the inputs of a Linear), C of either: whatever has coefficients of its own.
"""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.gram import Along, Of, gram, gram_with_base
from crossbreed.kernels.operators.linear import without_copies
from crossbreed.kernels.programs import Affine, Coefficient, Operator
from crossbreed.kernels.tensors import Parent, Parents
from crossbreed.operators import OPERATOR_SPECS
from crossbreed.sources import ModuleType, module_of
from crossbreed.types import Rule

_nan_is_an_answer = np.errstate(divide="ignore", invalid="ignore", over="ignore")


@_nan_is_an_answer
def widen(parents: Parents, rule: Rule) -> Affine:
    """Columns count by how much an expert changed them, compared with its other columns (arXiv 2408.03092).

    A column has two importances: the rank of its change in length, and of its change in direction. They are shared out
    among the experts by a softmax; where one is larger than t times the expert's mean, the share is s. A coefficient is
    the mean of both shares. In an input embedding, rows (tokens) take the place of columns. In a tensor of one
    dimension there is one importance: how far an element moved.
    """
    spec = OPERATOR_SPECS["widen"]
    t, s = spec.scalar(rule, "t"), spec.scalar(rule, "s")
    experts = parents.experts
    importances = [parents.fact_of(expert, "importance", partial(_importance, parents, expert)) for expert in experts]
    num_unmoved = len(parents.expert_names) - len(experts)  # of importance 0
    total = sum(map(np.exp, importances), np.float64(num_unmoved))
    coefficients = [
        np.where(importance > t * importance.mean(1, keepdims=True), s, np.exp(importance) / total).mean(0)
        for importance in importances
    ]
    along = _importance_along(parents)
    return Affine(
        shares=tuple((_coefficient(c, along, parents), expert) for c, expert in zip(coefficients, experts, strict=True))
    )


def _importance(parents: Parents, expert: Parent) -> NDArray[np.float64]:
    """Returns ranks [2, C], from 0 to 1, of the change in length and in direction; of a vector, |delta| [1, M]."""
    if parents.base.ndim < 2:
        return expert.whole_delta(parents.base).double().abs().reshape(1, -1).cpu().numpy()
    products = gram_with_base(parents.base, (expert,), _importance_along(parents))
    base_square, dot, square = products[:, 0, 0], products[:, 0, 1], products[:, 1, 1]
    base_length, length = np.sqrt(base_square), np.sqrt(np.maximum(0, base_square + 2 * dot + square))
    both = base_length * length
    cosine = np.divide(base_square + dot, both, out=np.zeros_like(both), where=both != 0)
    return np.stack([_rank(abs(length - base_length)), _rank(np.where(square == 0, 0, 1 - cosine))])


def _rank(change: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns which part of the changes is smaller than each: equal changes rank alike, and none ranks 0."""
    return np.searchsorted(np.sort(change), change) / len(change)


def _importance_along(parents: Parents) -> Along:
    """Rows where they are tokens, and in a vector, which as a matrix is a column."""
    is_input = module_of(parents.name) is ModuleType.EMBEDDING and "lm_head" not in parents.name
    return Along.ROWS if is_input or parents.base.ndim < 2 else Along.COLUMNS


@_nan_is_an_answer
def do_decouple(parents: Parents, rule: Rule) -> Affine:
    """Lengths and directions of the deltas' columns are merged apart (arXiv 2505.15875).

    DO-Merging's other step, which makes the deltas orthogonal, is not done. Outside of projections there are no columns
    to take apart: every length is 1 there, and what is left is a sum.
    """
    spec = OPERATOR_SPECS["do_decouple"]
    of_directions = spec.per_source(rule, "weight", parents.expert_names)
    of_lengths = spec.per_source(rule, "magnitude", parents.expert_names)
    scale = spec.scalar(rule, "scale")
    if not parents.is_projection:
        scale *= math.fsum(of_lengths.values())
        return Affine(shares=tuple((scale * w, parent) for w, parent in without_copies(parents.experts, of_directions)))
    experts = sorted(parents.experts, key=lambda p: (p.hash, of_directions[p.name], of_lengths[p.name]))
    if not experts:
        return Affine(shares=())
    squares = np.diagonal(gram(parents, Of.DELTAS, Along.COLUMNS), axis1=1, axis2=2)[:, 1:]
    lengths = {parent.hash: length for parent, length in zip(parents.experts, np.sqrt(squares).T, strict=True)}
    merged = sum(of_lengths[expert.name] * lengths[expert.hash] for expert in experts)
    shares = []
    for expert in experts:
        length = lengths[expert.hash]
        ratio = np.divide(
            scale * of_directions[expert.name] * merged, length, out=np.zeros_like(length), where=length != 0
        )
        shares.append((_coefficient(ratio, Along.COLUMNS, parents), expert))
    return Affine(shares=tuple(shares))


def _coefficient(values: NDArray[np.float64], along: Along, parents: Parents) -> Coefficient:
    """Returns a number for each row or each column."""
    if values.size == 1:
        return values.item()
    vector = torch.from_numpy(values).to(parents.base.device, torch.float32)
    return vector[:, None] if along is Along.ROWS else vector[None]


def metrics_weighted(parents: Parents, rule: Rule) -> Affine:
    """The average of the experts, weighted by a power of what they scored (arXiv 2504.18580).

    Raises:
        InvalidWeights: no expert scored anything.
    """
    spec = OPERATOR_SPECS["metrics_weighted"]
    metrics, penalty = spec.per_source(rule, "metric", parents.expert_names), spec.scalar(rule, "penalty")
    best = max(metrics.values(), default=0.0)
    if best == 0:
        raise InvalidWeights("every `metric` of `metrics_weighted` is 0: there is nothing to weight by")
    powers = {name: math.pow(metric / best, penalty) if metric else 0.0 for name, metric in metrics.items()}
    total = math.fsum(powers.values())
    shares = {name: power / total for name, power in powers.items()}
    return Affine(shares=tuple((share, parent) for share, parent in without_copies(parents.experts, shares)))


def passthrough(parents: Parents, rule: Rule) -> Affine:
    """One source's tensor, scaled."""
    spec = OPERATOR_SPECS["passthrough"]
    source, scale = spec.word(rule, "source"), spec.scalar(rule, "scale")
    return Affine(shares=tuple((scale, parent) for parent in parents.experts if parent.name == source), of_base=scale)


OPERATORS: Mapping[str, Operator] = {
    "widen": widen,
    "do_decouple": do_decouple,
    "metrics_weighted": metrics_weighted,
    "passthrough": passthrough,
}
