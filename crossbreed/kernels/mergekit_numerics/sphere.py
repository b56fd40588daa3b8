"""Paths and means on a sphere, of weights or of deltas."""

from collections.abc import Iterable, Mapping

import torch

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.mergekit_numerics.inputs import Inputs, Merge

COLINEAR = 0.9995
"""slerp walks straight between vectors whose cosine is larger."""
BLOCK = 1 << 20
"""slerp sums a tensor in pieces of as many elements."""


def slerp(inputs: Inputs) -> torch.Tensor:
    """From the base towards the other, by angle (Shoemake 1985): in fp32, rounded once."""
    (other,), base = inputs.experts, inputs.base
    wide = torch.promote_types(base.dtype, torch.float32)
    start, end, t = base.to(wide), other.tensor.to(wide), torch.tensor(inputs.number("t"), dtype=wide)
    cosine = (_unit(start) * _unit(end)).sum().clamp(-1, 1)
    if cosine.abs() > COLINEAR:
        return ((1 - t) * start + t * end).to(base.dtype)
    angle = cosine.acos()
    before, after = ((1 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()
    return (before * start + after * end).to(base.dtype)


def _unit(vector: torch.Tensor) -> torch.Tensor:
    norm = vector.norm()
    return vector / torch.where(norm < 1e-8, 1.0, norm)


def nuslerp(inputs: Inputs) -> torch.Tensor:
    """From one expert to the other by angle, as deltas if there is a base; whole, or vector by vector."""
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
    unit_start, unit_end = (v / v.norm(dim=-1, keepdim=True).clamp(min=1e-7) for v in (start, end))
    cosine = (unit_start * unit_end).sum(-1, keepdim=True).clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    merged = (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / sine
    return torch.where(1 - cosine * cosine <= 1e-16, (1 - t) * start + t * end, merged)


def multislerp(inputs: Inputs) -> torch.Tensor:
    """The weighted mean of directions in the plane that touches the sphere at their mean, times the mean of norms."""
    experts, base, eps = inputs.experts, inputs.maybe_base, inputs.number("eps")
    parts = [one.tensor for one in experts] if base is None else inputs.deltas
    if len(experts) == 1:
        return experts[0].tensor
    weights = inputs.weights(experts, parts[0].dtype)
    if inputs.flag("normalize_weights"):
        weights = weights / weights.sum()
    vectors = torch.stack([part.flatten() for part in parts])
    norms = vectors.norm(dim=-1, keepdim=True)
    units = vectors / (norms + eps)
    column = weights.view(-1, 1)
    mean = (units * column).sum(0)
    length = mean.norm()
    if length < eps:
        if len(experts) != 2:
            raise InvalidWeights("multislerp: the directions cancel, so that their mean has none")
        merged = (vectors * column).sum(0)
    else:
        mean = mean / length
        cosines = (units * mean).sum(-1, keepdim=True)
        tangent = ((units - cosines * mean) * column).sum(0)
        angle = tangent.norm() + eps
        merged = mean * angle.cos() + tangent * (angle.sin() / angle)
        merged = merged * (norms * column).sum()
    merged = merged.view(parts[0].shape)
    return merged if base is None else base + merged


def karcher(inputs: Inputs) -> torch.Tensor:
    """The mean of directions along the sphere (arXiv 2603.04972), times the mean of norms; all models alike."""
    tensors, tol, share = inputs.tensors, inputs.number("tol"), 1 / len(inputs.all)
    if len(tensors) == 1:
        return tensors[0]
    norms = [_wide_norm(tensor) for tensor in tensors]
    units = [(tensor / norm).flatten() for tensor, norm in zip(tensors, norms, strict=True) if norm > tol]
    if not units:
        return torch.zeros_like(tensors[0])
    pull = share / sum([share] * len(units))
    mean = _unit_of_sum(pull * unit for unit in units)
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
        mean = _unit_of_sum([length.cos() * mean, length.sin() * (tangent / length)])
    length = sum(share * norm for norm in norms)
    return (length * mean).view_as(tensors[0])  # in this order torch rounds an fp32 scalar to the tensor's dtype


def _unit_of_sum(vectors: Iterable[torch.Tensor]) -> torch.Tensor:
    total = sum(vectors)
    assert isinstance(total, torch.Tensor)
    return total / _wide_norm(total)


def _wide_norm(vector: torch.Tensor) -> torch.Tensor:
    return vector.to(torch.promote_types(vector.dtype, torch.float32)).norm()


def model_stock(inputs: Inputs) -> torch.Tensor:
    """From the base towards the experts' mean, as far as their angle says (arXiv 2403.19522, eq. 1)."""
    base, count = inputs.base, len(inputs.experts)
    by_filter = inputs.flag("filter_wise") and base.ndim > 1
    rows = [delta if by_filter else delta.view(-1) for delta in inputs.deltas]
    cosines = [_cosine(rows[i], rows[j]) for i in range(count) for j in range(i + 1, count)]
    cosine = torch.stack(cosines).mean(0)
    divisor = 1 + (count - 1) * cosine
    t = torch.where(divisor.abs() < 1e-6, 0.0, count * cosine / divisor)
    mean = sum(one.tensor for one in inputs.experts) / count
    if by_filter:
        t = t.unsqueeze(-1)
    return t * mean + (1 - t) * base


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    norms = a.norm(dim=-1) * b.norm(dim=-1)
    return ((a * b).sum(-1) / norms.clamp(min=1e-6)).clamp(-1, 1)


MERGES: Mapping[str, Merge] = {
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "model_stock": model_stock,
}
