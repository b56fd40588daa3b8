"""Paths between weights, or between deltas, on a sphere: scalars from inner products, then a sum.

With K the cosines between the vectors and c their coefficients, every operator here is a function c(K, lengths);
finds both once. A vector of length 0 has no direction: it is at right angles to every other, as in mergekit.
All tensors are merged so, vectors and embeddings too: a direction needs no matrix.

Shapes: M rows, N columns, V vectors (all sources that take part; those that leave the tensor as it is are the base).
What is written [..., V] has a leading M or N where each row or column is a vector of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.prepared.inner_products import Along, Of, inner_products_of
from crossbreed.kernels.programs import Affine, Coefficient
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule

Numbers: TypeAlias = NDArray[np.float64]

_BASE = Affine(shares=())
_NEARLY_PARALLEL = 0.9995
"""Cosine beyond which `slerp` is a straight line, as in mergekit."""
_NOTHING = 1e-7
"""A mean of unit vectors that is no longer than this has no direction: fp64 products cannot tell its square from 0."""
_nan_is_an_answer = np.errstate(divide="ignore", invalid="ignore")


@_nan_is_an_answer
def slerp(inputs: TensorInputs, rule: Rule) -> Affine:
    """From the base's weights to those of one expert (Shoemake 1985)."""
    if not inputs.experts:
        return _BASE
    t = OPERATOR_SPECS["slerp"].scalar(rule, "t")
    (expert,) = inputs.expert_names
    vectors = _vectors(inputs, {inputs.base_name: 1 - t, expert: t}, Of.WEIGHTS)
    cosine = vectors.cosines[0, 1]
    return vectors.combined(_turned(cosine, vectors.weights, is_straight=abs(cosine) > _NEARLY_PARALLEL))


@_nan_is_an_answer
def nuslerp(inputs: TensorInputs, rule: Rule) -> Affine:
    """Between the deltas, or the weights, of two experts."""
    if not inputs.experts:
        return _BASE
    spec = OPERATOR_SPECS["nuslerp"]
    weights = spec.per_source(rule, "weight", inputs.expert_names)
    vectors = _vectors(inputs, weights, Of(spec.word(rule, "of")), _along(inputs, rule))
    total = math.fsum(vectors.weights)
    shares = vectors.weights / total if abs(total) >= 1e-6 else np.array([0.5, 0.5])
    cosine = vectors.cosines[..., 0, 1]
    return vectors.combined(_turned(cosine, shares, is_straight=1 - cosine**2 <= 1e-16))


def _turned(cosine: Numbers, shares: Numbers, *, is_straight: NDArray[np.bool_]) -> Numbers:
    """sin(share angle) / sin(angle) for both vectors; the shares themselves where the arc is a line."""
    angle = np.arccos(np.clip(cosine, -1, 1))[..., None]
    return np.where(is_straight[..., None], shares, np.sin(shares * angle) / np.sin(angle))


@_nan_is_an_answer
def multislerp(inputs: TensorInputs, rule: Rule) -> Affine:
    """The weighted mean of directions, with the weighted mean of lengths.

    mergekit goes from that mean one step along the sphere; projected on the tangent there, the weighted sum of unit
    vectors that it steps by is 0.

    Raises:
        InvalidWeights: the weights sum to 0 and are to be normalised, or the mean has no direction.
    """
    spec = OPERATOR_SPECS["multislerp"]
    weights = spec.per_source(rule, "weight", inputs.expert_names)
    of, is_normalized = Of(spec.word(rule, "of")), bool(spec.scalar(rule, "normalize"))
    if not inputs.experts:
        return _BASE if of is Of.DELTAS or is_normalized else Affine(shares=(), of_base=math.fsum(weights.values()))
    vectors = _vectors(inputs, weights, of)
    shares = vectors.shares("multislerp") if is_normalized else vectors.weights
    taking = (shares != 0) & (vectors.lengths != 0)
    if taking.sum() <= 2 and _length(shares, vectors.cosines) <= _NOTHING:
        return vectors.combined(shares)  # nothing, or two that are opposite: the line between them
    return vectors.on_sphere(vectors.direction(shares), shares)


@_nan_is_an_answer
def karcher(inputs: TensorInputs, rule: Rule) -> Affine:
    """The point on the sphere with the least sum of squared angles to all (Karcher 1977; arXiv 2603.04972).

    Raises:
        InvalidWeights: the weights sum to 0, or the search for the point starts nowhere.
    """
    if not inputs.experts:
        return _BASE
    spec = OPERATOR_SPECS["karcher"]
    of = Of(spec.word(rule, "of"))
    sources = inputs.expert_names if of is Of.DELTAS else (inputs.base_name, *inputs.expert_names)
    vectors = _vectors(inputs, spec.per_source(rule, "weight", sources), of)
    shares = vectors.shares("karcher")
    pulling = np.where(vectors.lengths == 0, 0.0, shares)
    if not pulling.any():
        return vectors.combined(pulling)
    pulling = pulling / math.fsum(pulling)
    mean, tolerance = vectors.direction(pulling), spec.scalar(rule, "tol")
    for _ in range(int(spec.scalar(rule, "max_iter"))):
        cosines = np.clip(vectors.cosines @ mean, -1, 1)
        angles = np.arccos(cosines)
        pulls = np.where(angles < tolerance, 0.0, pulling * angles / np.sin(angles))
        step = pulls - (pulls @ cosines) * mean  # in the tangent at the mean
        length = _length(step, vectors.cosines)
        if length < tolerance:
            break
        mean = vectors.direction(np.cos(length) * mean + np.sin(length) / length * step)
    return vectors.on_sphere(mean, shares)


@_nan_is_an_answer
def model_stock(inputs: TensorInputs, rule: Rule) -> Affine:
    """Towards the mean of the experts, as far as their angles say that it is better than the base (arXiv 2403.19522).

    For more than two experts the cosine is the mean over all pairs, as in mergekit.
    """
    if not inputs.experts:
        return _BASE
    spec = OPERATOR_SPECS["model_stock"]
    count = len(inputs.expert_names)
    vectors = _vectors(inputs, dict.fromkeys(inputs.expert_names, 1 / count), Of.DELTAS, _along(inputs, rule))
    first, second = np.triu_indices(count, 1)
    cosine = vectors.cosines[..., first, second].mean(-1)
    divisor = 1 + (count - 1) * cosine
    t = np.where(abs(divisor) < 1e-6, 0.0, count * cosine / divisor)
    return vectors.combined(spec.scalar(rule, "scale") * t[..., None] * vectors.weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vectors:
    """The sources that take part, in an order that only their content and weights decide."""

    owners: Sequence[ExpertTensor | None]
    """None: the base, or an expert that leaves the tensor as it is."""
    weights: Numbers
    """[V]"""
    lengths: Numbers
    """[..., V]"""
    cosines: Numbers
    """[..., V, V]; 0 wherever a length is 0."""
    of: Of
    along: Along
    inputs: TensorInputs

    def shares(self, operator: str) -> Numbers:
        """Returns the weights, divided by their sum."""
        total = math.fsum(self.weights)
        if total == 0:
            raise InvalidWeights(f"the weights of `{operator}` sum to 0 and cannot be normalised")
        return self.weights / total

    def direction(self, shares: Numbers) -> Numbers:
        """Returns a sum of the unit vectors, made a unit vector itself."""
        length = _length(shares, self.cosines)
        if length <= _NOTHING:
            raise InvalidWeights("the sources' directions cancel: their mean has none")
        return shares / length

    def on_sphere(self, direction: Numbers, shares: Numbers) -> Affine:
        """Returns a sum of the unit vectors, as long as the vectors are on average."""
        longer = np.divide(
            shares @ self.lengths, self.lengths, out=np.zeros_like(self.lengths), where=self.lengths != 0
        )
        return self.combined(direction * longer)

    def combined(self, coefficients: Numbers) -> Affine:
        """Adds up the ci Vi: the base's weights as often as weights are summed, and the deltas of the experts."""
        parts = [self._coefficient(part) for part in np.moveaxis(coefficients, -1, 0)]
        shares = tuple((c, owner) for c, owner in zip(parts, self.owners, strict=True) if owner is not None)
        of_base = np.asarray(coefficients.sum(-1)) if self.of is Of.WEIGHTS else np.ones(())
        if of_base.ndim == 0:
            return Affine(shares=shares, of_base=float(of_base))
        base = self.inputs.base.float()
        twice = ExpertTensor(name=self.inputs.base_name, hash=self.inputs.base_hash, value=2 * base)  # its delta is W0
        return Affine(shares=(*shares, (self._coefficient(of_base - 1), twice)))

    def _coefficient(self, values: Numbers) -> Coefficient:
        if values.size == 1:
            return values.item()
        axis = 0 if self.along is Along.COLUMNS else 1
        return torch.from_numpy(np.expand_dims(values, axis)).to(self.inputs.base.device, torch.float32)


def _vectors(inputs: TensorInputs, weights: Mapping[str, float], of: Of, along: Along = Along.TENSOR) -> _Vectors:
    places = {expert.name: place for place, expert in enumerate(inputs.experts, 1)}
    hashes = {expert.name: expert.hash for expert in inputs.experts}
    names = sorted(weights, key=lambda name: (hashes.get(name, ""), weights[name]))
    taken = [places.get(name, 0) for name in names]
    products = inner_products_of(inputs, of, along)[..., taken, :][..., taken]
    lengths = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
    squares = lengths[..., :, None] * lengths[..., None, :]
    cosines = np.divide(products, squares, out=np.zeros_like(products), where=squares != 0)
    same = np.equal.outer(taken, taken) & (squares != 0)
    return _Vectors(
        owners=[inputs.experts[place - 1] if place else None for place in taken],
        weights=np.array([weights[name] for name in names]),
        lengths=lengths,
        cosines=np.where(same, np.where(np.isnan(cosines), np.nan, 1.0), cosines),  # exactly
        of=of,
        along=along,
        inputs=inputs,
    )


def _length(coefficients: Numbers, cosines: Numbers) -> float:
    """Of a sum of unit vectors."""
    square = float(coefficients @ cosines @ coefficients)
    return 0.0 if square < 0 else math.sqrt(square)


def _along(inputs: TensorInputs, rule: Rule) -> Along:
    word = OPERATOR_SPECS[rule.operator].word(rule, "along")
    return Along(word) if inputs.base.ndim > 1 else Along.TENSOR
