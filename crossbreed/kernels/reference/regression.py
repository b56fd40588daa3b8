"""Least squares, by whole matrices and their inverses."""

from collections.abc import Mapping

import torch

from crossbreed.kernels.reference.linear import task_arithmetic
from crossbreed.kernels.reference.sparse import ties
from crossbreed.kernels.reference.spectral import mean_of_deltas, tsv_m
from crossbreed.kernels.reference.tensor import Reference, Tensor
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule


def regmean(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """M + (D - M C) C^+ with M the weighted mean of the deltas: D C^-1 where C has an inverse."""
    spec = OPERATOR_SPECS["regmean"]
    weights = spec.per_source(rule, "weight", tuple(tensor.experts))
    total = sum(weights.values())
    if total == 0:
        return tensor.base
    shares = {name: weight / total for name, weight in weights.items()}
    mean = len(shares) * mean_of_deltas(tensor, shares)
    if not tensor.is_projection or not any(weights[name] for name in tensor.hashes):
        return tensor.base + mean
    alpha = spec.scalar(rule, "alpha")
    c, d = system(tensor, shares, "data" if tensor.grams else "deltas", alpha=alpha)
    return tensor.base + mean + (d - mean @ c) @ inverse(c, are_stored=bool(tensor.grams))


def swudi(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """T0 (I - V f V^T) + D V (f / c) V^T."""
    spec = OPERATOR_SPECS["swudi"]
    weights, scale = spec.per_source(rule, "weight", tuple(tensor.experts)), spec.scalar(rule, "scale")
    if not tensor.is_projection or not any(weights[name] for name in tensor.hashes):
        return tensor.base + scale * mean_of_deltas(tensor, weights)
    start = len(weights) * mean_of_deltas(tensor, weights)
    c, d = system(tensor, weights, "deltas")
    values, vectors = torch.linalg.eigh(c)
    values = torch.where(values > 1e-12 * values.max(), values, 0.0)
    match spec.word(rule, "filter"):
        case "exponential":
            f = 1 - torch.exp(-values * spec.scalar(rule, "time"))
        case "tikhonov":
            f = values / (values + spec.scalar(rule, "ridge"))
        case "landweber":
            f = 1 - (1 - 0.9 * values / values.max()) ** spec.scalar(rule, "steps")
        case "top_k":
            f = (torch.arange(len(values)).flip(0) < int(spec.scalar(rule, "ratio") * len(values))).double()
    f = torch.where(values > 0, f, 0.0)
    ratio = torch.where(values > 0, f / values, 0.0)
    kept, solved = vectors @ (1 - f).diag() @ vectors.T, vectors @ ratio.diag() @ vectors.T
    merged: torch.Tensor = tensor.base + scale * (start @ kept + d @ solved)
    return merged


def bmm(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """(D + l A) (C + l I)^-1 times the scale; with l = 0, A + (D - A C) C^+ times it."""
    spec = OPERATOR_SPECS["bmm"]
    weights, densities = (spec.per_source(rule, name, tuple(tensor.experts)) for name in ("weight", "density"))
    name = spec.word(rule, "anchor")
    params = {"weight": weights, **({"density": densities} if name == "ties" else {})}
    merged = _ANCHORS[name](tensor, Rule(match=rule.match, operator=name, params=params))
    anchor, scale = merged - tensor.base, spec.scalar(rule, "scale")
    if not tensor.is_projection or not any(weights[name] for name in tensor.hashes):
        return tensor.base + scale * anchor
    grams = spec.word(rule, "grams")
    c, d = system(tensor, weights, grams, eta=spec.scalar(rule, "eta"))
    ridge = spec.scalar(rule, "lambda") * c.trace() / len(c)
    if ridge == 0:
        return tensor.base + scale * (anchor + (d - anchor @ c) @ inverse(c, are_stored=grams != "deltas"))
    identity = torch.eye(len(c), dtype=torch.float64)
    solved: torch.Tensor = torch.linalg.solve(c + ridge * identity, d + ridge * anchor, left=False)
    return tensor.base + scale * solved


def system(
    tensor: Tensor, weights: Mapping[str, float], grams: str, *, alpha: float = 1.0, eta: float = 0.5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns C = sum(wi Gi) and D = sum(wi di Gi)."""
    c, d = torch.zeros(tensor.base.shape[1], tensor.base.shape[1], dtype=torch.float64), torch.zeros_like(tensor.base)
    for name, delta in tensor.deltas.items():
        own = delta.T @ delta / delta.square().sum() if name in tensor.hashes else torch.zeros_like(c)
        if grams != "deltas":
            data = tensor.grams[name]
            own = data if grams == "data" else eta * data / data.trace() + (1 - eta) * own
        gram = alpha * own + (1 - alpha) * own.diagonal().diag()
        c, d = c + weights[name] * gram, d + weights[name] * delta @ gram
    return c, d


def inverse(c: torch.Tensor, *, are_stored: bool) -> torch.Tensor:
    """Moore and Penrose's. Of Grams that were stored in fp32, only eigenvalues that stand out from their rounding.

    An eigenvalue has to be larger than 1e-6 sqrt(N) times what it would be if inputs were not correlated.
    """
    values, vectors = torch.linalg.eigh(c)
    least = 1e-12 * values.max().expand(len(c))
    if are_stored:
        least = least.maximum(1e-6 * len(c) ** 0.5 * (vectors.T @ c.diagonal().diag() @ vectors).diagonal())
    inverted = torch.where(values > least, 1 / values, 0.0)
    pseudo: torch.Tensor = vectors @ inverted.diag() @ vectors.T
    return pseudo


_ANCHORS: Mapping[str, Reference] = {"task_arithmetic": task_arithmetic, "ties": ties, "tsv_m": tsv_m, "swudi": swudi}
