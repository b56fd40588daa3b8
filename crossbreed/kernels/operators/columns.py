"""A number for each of a matrix's columns (its inputs), or for each expert by what is known of it.

Shapes: M rows, N columns (the inputs of a Linear), C of either: whatever has coefficients of its own.
"""

import math
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.operators.linear import without_copies
from crossbreed.kernels.prepared.inner_products import Along, Of, inner_products_of, inner_products_with_base
from crossbreed.kernels.programs import Affine, Coefficient
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.sources.naming import is_input_embedding
from crossbreed.types import Rule

_nan_is_an_answer = np.errstate(divide="ignore", invalid="ignore", over="ignore")


@_nan_is_an_answer
def widen(inputs: TensorInputs, rule: Rule) -> Affine:
    """Columns count by how much an expert changed them, compared with its other columns (arXiv 2408.03092).

    A column has two importances: the rank of its change in length, and of its change in direction. They are shared out
    among the experts by a softmax; where one is larger than t times the expert's mean, the share is s. A coefficient is
    the mean of both shares. In an input embedding, rows (tokens) take the place of columns. In a tensor of one
    dimension there is one importance: how far an element moved.
    """
    spec = OPERATOR_SPECS["widen"]
    t, s = spec.scalar(rule, "t"), spec.scalar(rule, "s")
    experts = inputs.experts
    importances = [inputs.cached_for(expert, "importance", partial(_importance, inputs, expert)) for expert in experts]
    num_unmoved = len(inputs.expert_names) - len(experts)  # of importance 0
    total = sum(map(np.exp, importances), np.float64(num_unmoved))
    coefficients = [
        np.where(importance > t * importance.mean(1, keepdims=True), s, np.exp(importance) / total).mean(0)
        for importance in importances
    ]
    along = _importance_along(inputs)
    return Affine(
        shares=tuple((_coefficient(c, along, inputs), expert) for c, expert in zip(coefficients, experts, strict=True))
    )


def _importance(inputs: TensorInputs, expert: ExpertTensor) -> NDArray[np.float64]:
    """Returns ranks [2, C], from 0 to 1, of the change in length and in direction; of a vector, |delta| [1, M]."""
    if inputs.base.ndim < 2:
        return expert.whole_delta(inputs.base).double().abs().reshape(1, -1).cpu().numpy()
    products = inner_products_with_base(inputs.base, (expert,), _importance_along(inputs))
    base_square, dot, square = products[:, 0, 0], products[:, 0, 1], products[:, 1, 1]
    base_length, length = np.sqrt(base_square), np.sqrt(np.maximum(0, base_square + 2 * dot + square))
    both = base_length * length
    cosine = np.divide(base_square + dot, both, out=np.zeros_like(both), where=both != 0)
    return np.stack([_rank(abs(length - base_length)), _rank(np.where(square == 0, 0, 1 - cosine))])


def _rank(change: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns which part of the changes is smaller than each: equal changes rank alike, and none ranks 0."""
    return np.searchsorted(np.sort(change), change) / len(change)


def _importance_along(inputs: TensorInputs) -> Along:
    """Rows where they are tokens, and in a vector, which as a matrix is a column."""
    return Along.ROWS if is_input_embedding(inputs.name) or inputs.base.ndim < 2 else Along.COLUMNS


@_nan_is_an_answer
def do_decouple(inputs: TensorInputs, rule: Rule) -> Affine:
    """Lengths and directions of the deltas' columns are merged apart (arXiv 2505.15875).

    DO-Merging's other step, which makes the deltas orthogonal, is not done. Outside of projections there are no columns
    to take apart: every length is 1 there, and what is left is a sum.
    """
    spec = OPERATOR_SPECS["do_decouple"]
    of_directions = spec.per_source(rule, "weight", inputs.expert_names)
    of_lengths = spec.per_source(rule, "magnitude", inputs.expert_names)
    scale = spec.scalar(rule, "scale")
    if not inputs.is_projection:
        scale *= math.fsum(of_lengths.values())
        return Affine(shares=tuple((scale * w, expert) for w, expert in without_copies(inputs.experts, of_directions)))
    experts = sorted(inputs.experts, key=lambda p: (p.hash, of_directions[p.name], of_lengths[p.name]))
    if not experts:
        return Affine(shares=())
    squares = np.diagonal(inner_products_of(inputs, Of.DELTAS, Along.COLUMNS), axis1=1, axis2=2)[:, 1:]
    lengths = {expert.hash: length for expert, length in zip(inputs.experts, np.sqrt(squares).T, strict=True)}
    merged = sum(of_lengths[expert.name] * lengths[expert.hash] for expert in experts)
    shares = []
    for expert in experts:
        length = lengths[expert.hash]
        ratio = np.divide(
            scale * of_directions[expert.name] * merged, length, out=np.zeros_like(length), where=length != 0
        )
        shares.append((_coefficient(ratio, Along.COLUMNS, inputs), expert))
    return Affine(shares=tuple(shares))


def _coefficient(values: NDArray[np.float64], along: Along, inputs: TensorInputs) -> Coefficient:
    """Returns a number for each row or each column."""
    if values.size == 1:
        return values.item()
    vector = torch.from_numpy(values).to(inputs.base.device, torch.float32)
    return vector[:, None] if along is Along.ROWS else vector[None]


def metrics_weighted(inputs: TensorInputs, rule: Rule) -> Affine:
    """The average of the experts, weighted by a power of what they scored (arXiv 2504.18580).

    Raises:
        InvalidWeights: no expert scored anything.
    """
    spec = OPERATOR_SPECS["metrics_weighted"]
    metrics, penalty = spec.per_source(rule, "metric", inputs.expert_names), spec.scalar(rule, "penalty")
    best = max(metrics.values(), default=0.0)
    if best == 0:
        raise InvalidWeights("every `metric` of `metrics_weighted` is 0: there is nothing to weight by")
    powers = {name: math.pow(metric / best, penalty) if metric else 0.0 for name, metric in metrics.items()}
    total = math.fsum(powers.values())
    shares = {name: power / total for name, power in powers.items()}
    return Affine(shares=tuple((share, expert) for share, expert in without_copies(inputs.experts, shares)))


def passthrough(inputs: TensorInputs, rule: Rule) -> Affine:
    """One source's tensor, scaled."""
    spec = OPERATOR_SPECS["passthrough"]
    source, scale = spec.word(rule, "source"), spec.scalar(rule, "scale")
    return Affine(shares=tuple((scale, expert) for expert in inputs.experts if expert.name == source), of_base=scale)
