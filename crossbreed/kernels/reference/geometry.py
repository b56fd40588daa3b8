"""Paths between weights, or between deltas, on a sphere: the vectors themselves are turned."""

import math
from collections.abc import Callable, Sequence

import torch

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule


def slerp(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """From the base to the expert; a straight line where their cosine is beyond 0.9995."""
    t = OPERATOR_SPECS["slerp"].scalar(rule, "t")
    (expert,) = tensor.experts.values()
    cosine = (_unit(tensor.base) * _unit(expert)).sum().item()
    return _arc(tensor.base, expert, (1 - t, t), line=abs(cosine) > 0.9995)


def nuslerp(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Between two experts' deltas or weights; as a whole, or row by row, or column by column."""
    spec = OPERATOR_SPECS["nuslerp"]
    first, second = spec.per_source(rule, "weight", tuple(tensor.experts)).values()
    total = first + second
    shares = (first / total, second / total) if abs(total) >= 1e-6 else (0.5, 0.5)

    def turn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        cosine = (_unit(a) * _unit(b)).sum().item()
        return _arc(a, b, shares, line=1 - cosine**2 <= 1e-16)

    if spec.word(rule, "of") == "weights":
        return _each(turn, list(tensor.experts.values()), spec.word(rule, "along"))
    return tensor.base + _each(turn, list(tensor.deltas.values()), spec.word(rule, "along"))


def multislerp(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """From the weighted mean of directions by mergekit's step along the sphere; then as long as the mean length."""
    spec = OPERATOR_SPECS["multislerp"]
    vectors = tensor.experts if spec.word(rule, "of") == "weights" else tensor.deltas
    if not tensor.hashes and spec.word(rule, "of") == "deltas":
        return tensor.base
    weights = list(spec.per_source(rule, "weight", tuple(vectors)).values())
    if spec.scalar(rule, "normalize"):
        if math.fsum(weights) == 0:
            raise InvalidWeights("the weights sum to 0")
        weights = [weight / math.fsum(weights) for weight in weights]
    units = [_unit(vector) for vector in vectors.values()]
    mean = _sum(weights, units)
    if _length(mean) <= 1e-7:
        if sum(1 for weight, unit in zip(weights, units, strict=True) if weight and unit.any()) > 2:
            raise InvalidWeights("the mean has no direction")
        return _sum(weights, list(vectors.values())) + (0 if vectors is tensor.experts else tensor.base)
    mean = mean / _length(mean)
    tangent = _sum(weights, [unit - (unit * mean).sum() * mean for unit in units])
    angle = _length(tangent) + 1e-8
    turned = math.cos(angle) * mean + math.sin(angle) / angle * tangent
    merged = turned * sum(w * _length(vector) for w, vector in zip(weights, vectors.values(), strict=True))
    return merged if vectors is tensor.experts else tensor.base + merged


def karcher(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Steps along the sphere, by the mean of what points from here to the others."""
    spec = OPERATOR_SPECS["karcher"]
    is_whole = spec.word(rule, "of") == "weights"
    vectors = {tensor.base_name: tensor.base, **tensor.experts} if is_whole else tensor.deltas
    weights = spec.per_source(rule, "weight", tuple(vectors))
    if not tensor.hashes:
        return tensor.base
    if math.fsum(weights.values()) == 0:
        raise InvalidWeights("the weights sum to 0")
    shares = {name: weight / math.fsum(weights.values()) for name, weight in weights.items()}
    length = sum(shares[name] * _length(vector) for name, vector in vectors.items())
    taking = [name for name, vector in vectors.items() if vector.any() and shares[name]]
    if not taking:
        return torch.zeros_like(tensor.base) if is_whole else tensor.base
    pulls = [shares[name] / sum(shares[name] for name in taking) for name in taking]
    units = [_unit(vectors[name]) for name in taking]
    mean = _sum(pulls, units)
    if _length(mean) <= 1e-7:
        raise InvalidWeights("the mean has no direction")
    mean = mean / _length(mean)
    for _ in range(int(spec.scalar(rule, "max_iter"))):
        tangent = torch.zeros_like(mean)
        for pull, unit in zip(pulls, units, strict=True):
            cosine = max(-1.0, min(1.0, (unit * mean).sum().item()))
            if (angle := math.acos(cosine)) >= spec.scalar(rule, "tol"):
                tangent += pull * angle / math.sin(angle) * (unit - cosine * mean)
        if (step := _length(tangent)) < spec.scalar(rule, "tol"):
            break
        mean = math.cos(step) * mean + math.sin(step) / step * tangent
        mean = mean / _length(mean)
    return mean * length if is_whole else tensor.base + mean * length


def model_stock(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Between the base and the mean of the experts, by the mean cosine of all pairs of deltas."""
    spec = OPERATOR_SPECS["model_stock"]
    scale = spec.scalar(rule, "scale")

    def stock(*deltas: torch.Tensor) -> torch.Tensor:
        units, count = [_unit(delta) for delta in deltas], len(deltas)
        pairs = [(a * b).sum().item() for i, a in enumerate(units) for b in units[:i]]
        cosine = sum(pairs) / len(pairs)
        divisor = 1 + (count - 1) * cosine
        t = 0.0 if abs(divisor) < 1e-6 else count * cosine / divisor
        return _sum([scale * t / count] * count, deltas)

    return tensor.base + _each(stock, list(tensor.deltas.values()), spec.word(rule, "along"))


def _length(vector: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))


def _unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / _length(vector) if vector.any() else vector


def _sum(weights: Sequence[float], vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    parts = [weight * vector for weight, vector in zip(weights, vectors, strict=True)]
    return torch.stack(parts).sum(0)


def _arc(a: torch.Tensor, b: torch.Tensor, shares: tuple[float, float], *, line: bool) -> torch.Tensor:
    if line:
        return shares[0] * a + shares[1] * b
    angle = math.acos(max(-1.0, min(1.0, (_unit(a) * _unit(b)).sum().item())))
    return (math.sin(shares[0] * angle) * a + math.sin(shares[1] * angle) * b) / math.sin(angle)


def _each(merge: Callable[..., torch.Tensor], tensors: Sequence[torch.Tensor], along: str) -> torch.Tensor:
    """Merges whole tensors, or their rows, or their columns; a tensor of one dimension is a whole."""
    if along == "tensor" or tensors[0].ndim < 2:
        return merge(*tensors)
    matrices = [tensor.reshape(len(tensor), -1) for tensor in tensors]
    axis = 0 if along == "rows" else 1
    parts = zip(*(matrix.unbind(axis) for matrix in matrices), strict=True)
    return torch.stack([merge(*vectors) for vectors in parts], axis).view_as(tensors[0])
