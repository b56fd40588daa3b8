"""Interpolation and means on a sphere, of weights or of deltas."""

from collections.abc import Mapping

import torch
from torch.linalg import vector_norm

from crossbreed.errors import InvalidWeights
from crossbreed.mergekit.numerics.inputs import Inputs, Merge

COLINEAR = 0.9995
"""slerp walks straight between vectors whose cosine is larger."""
BLOCK = 1 << 20
"""slerp sums a tensor in pieces of as many elements."""


def slerp(inputs: Inputs) -> torch.Tensor:
    """Interpolates from the base to the other by angle (Shoemake 1985): in fp32, rounded once."""
    (other,), base = inputs.experts, inputs.base
    wide = _wider(base.dtype)
    start, end = base.to(wide), other.tensor.to(wide)
    t = torch.tensor(inputs.number("t"), dtype=wide, device=base.device)
    products = [(a * b).sum() for a, b in zip(_unit_blocks(start), _unit_blocks(end), strict=True)]
    cosine = sum(products, torch.zeros_like(t)).clamp(-1, 1)
    if cosine.abs() > COLINEAR:
        return ((1 - t) * start + t * end).to(base.dtype)
    angle = cosine.acos()
    before, after = ((1 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()
    return (before * start + after * end).to(base.dtype)


def _unit_blocks(vector: torch.Tensor) -> list[torch.Tensor]:
    blocks = torch.split(vector.flatten(), BLOCK)
    norm = vector_norm(torch.stack([vector_norm(block) for block in blocks]))
    return [block / torch.where(norm < 1e-8, 1.0, norm) for block in blocks]


def nuslerp(inputs: Inputs) -> torch.Tensor:
    """Interpolates between experts by angle, as deltas if there is a base; whole, or vector by vector."""
    weights = [inputs.number("weight", one) for one in inputs.experts]
    total = sum(weights)
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    base = inputs.maybe_base
    start, end = [one.tensor for one in inputs.experts] if base is None else inputs.deltas
    shape = start.shape
    if inputs.flag("nuslerp_flatten"):
        merged = _arc(start.flatten(), end.flatten(), t).view(shape)
    elif inputs.flag("nuslerp_row_wise"):
        merged = _arc(start.transpose(0, -1), end.transpose(0, -1), t).transpose(0, -1)
    else:
        merged = _arc(start, end, t)
    return merged if base is None else base + merged


def _arc(start: torch.Tensor, end: torch.Tensor, t: float) -> torch.Tensor:
    """Interpolates the vectors along the last dimension."""
    unit_start, unit_end = (v / vector_norm(v, dim=-1, keepdim=True).clamp(min=1e-7) for v in (start, end))
    cosine = (unit_start * unit_end).sum(-1, keepdim=True).clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    merged = (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / sine
    return torch.where(1 - cosine * cosine <= 1e-16, (1 - t) * start + t * end, merged)


def multislerp(inputs: Inputs) -> torch.Tensor:
    """Returns the weighted mean of directions in the tangent plane at their mean, times the mean of norms."""
    experts, base, eps = inputs.experts, inputs.maybe_base, inputs.number("eps")
    parts = [one.tensor for one in experts] if base is None else inputs.deltas
    if len(experts) == 1:
        return experts[0].tensor
    weights = inputs.weights(experts, parts[0].dtype)
    if inputs.flag("normalize_weights"):
        weights = weights / weights.sum()
    vectors = torch.stack([part.flatten() for part in parts])
    norms = vector_norm(vectors, dim=-1, keepdim=True)
    units = vectors / (norms + eps)
    column = weights.view(-1, 1)
    mean = (units * column).sum(0)
    length = vector_norm(mean)
    if length < eps:
        if len(experts) != 2:
            raise InvalidWeights("multislerp: the directions cancel, so that their mean has none")
        merged = vectors[0] * weights[0] + vectors[1] * weights[1]
    else:
        mean = mean / length
        cosines = (units * mean).sum(-1, keepdim=True)
        tangent = ((units - cosines * mean) * column).sum(0)
        angle = vector_norm(tangent) + eps
        merged = mean * angle.cos() + tangent * (angle.sin() / angle)
        merged = merged * (norms * column).sum()
    merged = merged.view(parts[0].shape)
    return merged if base is None else base + merged


def karcher(inputs: Inputs) -> torch.Tensor:
    """Returns the mean of directions along the sphere (arXiv 2603.04972), times the mean of norms, unweighted."""
    tensors, tol, share = inputs.tensors, inputs.number("tol"), 1 / len(inputs.all)
    if len(tensors) == 1:
        return tensors[0]
    norms = [_wide_norm(tensor) for tensor in tensors]
    units = [(tensor / norm).flatten() for tensor, norm in zip(tensors, norms, strict=True) if norm > tol]
    if not units:
        return torch.zeros_like(tensors[0])
    pull = share / sum([share] * len(units))
    total = sum((pull * unit for unit in units[1:]), pull * units[0])
    mean = units[0] if _wide_norm(total) < tol else total / _wide_norm(total)
    for _ in range(int(inputs.number("max_iter"))):
        tangent = torch.zeros_like(mean)
        for unit in units:
            cosine = unit.dot(mean).clamp(-1, 1)
            angle = cosine.acos()
            if angle >= tol:
                tangent += pull * (angle / angle.sin()) * (unit - cosine * mean)
        length = _wide_norm(tangent)
        if length < tol:
            break
        mean = length.cos() * mean + length.sin() * (tangent / length)
        mean = mean / _wide_norm(mean)
    radius = sum((share * norm for norm in norms), torch.zeros_like(norms[0]))
    return radius.mul(mean).view_as(tensors[0])  # in this order torch rounds an fp32 scalar to the tensor's dtype


def _wide_norm(vector: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = vector_norm(vector.to(_wider(vector.dtype)))
    return norm


def _wider(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def model_stock(inputs: Inputs) -> torch.Tensor:
    """Interpolates from the base to the experts' mean, as far as their angle says (arXiv 2403.19522, eq. 1)."""
    base, count = inputs.base, len(inputs.experts)
    by_filter = inputs.flag("filter_wise") and base.ndim > 1
    rows = [delta if by_filter else delta.view(-1) for delta in inputs.deltas]
    cosines = [_cosine(rows[i], rows[j]) for i in range(count) for j in range(i + 1, count)]
    cosine = torch.stack(cosines).mean(0)
    divisor = 1 + (count - 1) * cosine
    t = torch.where(divisor.abs() < 1e-6, 0.0, count * cosine / divisor)
    mean = sum((one.tensor for one in inputs.experts), torch.zeros_like(base)) / count
    return (t * mean + (1 - t) * base).view(base.shape)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    norms = vector_norm(a, dim=-1, keepdim=True) * vector_norm(b, dim=-1, keepdim=True)
    return (a * b).sum(-1, keepdim=True).div(norms.clamp(min=1e-6)).clamp(-1, 1)


MERGES: Mapping[str, Merge] = {
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "model_stock": model_stock,
}
