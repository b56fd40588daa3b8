"""Quadratics of a few coordinates, each under a link function, with the error of each point when it is left out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

LinkName: TypeAlias = Literal["identity", "logit", "softplus"]
Array: TypeAlias = NDArray[np.float64]
_RIDGES = (1e-8, 1e-5, 1e-3, 1e-1)
"""Shares of the mean square of a feature, of which the one is taken that predicts left-out points best."""
_ITEMS = 100
"""A share of right answers counts as if half an answer of so many were added: 0 and 1 have a logit then."""
_LEAST = 1e-6
"""A loss that is smaller counts as this: 0 has no inverse of softplus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a quadratic goes through to become a value where more is better."""

    takes: Callable[[Array], bool]
    """Whether values can be its."""
    of: Callable[[Array], Array]
    """Quadratic -> value."""
    inverse: Callable[[Array], Array]
    """Value -> quadratic."""
    weights: Callable[[Array], Array]
    """How much each value tells of its quadratic: the inverse of the variance that noise in the value has there."""


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -500, 500))))


def _shrunk(p: Array) -> Array:
    return (p * _ITEMS + 0.5) / (_ITEMS + 1)


LINKS: Mapping[LinkName, Link] = MappingProxyType(
    {
        "identity": Link(takes=lambda y: True, of=lambda q: q, inverse=lambda y: y, weights=np.ones_like),
        "logit": Link(
            takes=lambda y: bool(((y >= 0) & (y <= 1)).all()),
            of=_sigmoid,
            inverse=lambda y: np.log(_shrunk(y)) - np.log1p(-_shrunk(y)),
            weights=lambda y: _shrunk(y) * (1 - _shrunk(y)),
        ),
        "softplus": Link(
            takes=lambda y: bool((y <= 0).all()),
            of=lambda q: -np.logaddexp(0.0, q),
            inverse=lambda y: np.log(np.expm1(np.clip(-y, _LEAST, 500))),
            weights=lambda y: (1 - np.exp(-np.clip(-y, _LEAST, None))) ** 2,
        ),
    }
)
"""`identity` of any value, `logit` of shares, `softplus` of losses (which are told negated)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quadratic:
    """A fitted quadratic."""

    link: LinkName
    coefficients: Array
    r2: float
    """Of the values of points that were left out, one at a time; 1 is perfect, 0 no better than their mean."""

    def predict(self, points: Array) -> Array:
        """Returns the values at points, one a row."""
        return LINKS[self.link].of(features(points) @ self.coefficients)


def features(points: Array) -> Array:
    """Returns 1, each coordinate and each product of two, for each row.

    >>> features(np.array([[2.0, 3.0]])).tolist()
    [[1.0, 2.0, 3.0, 4.0, 6.0, 9.0]]
    """
    first, second = np.triu_indices(points.shape[1])
    return np.hstack([np.ones((len(points), 1)), points, points[:, first] * points[:, second]])


def num_coefficients(dim: int) -> int:
    """Returns how many unknowns a quadratic of `dim` coordinates has."""
    return (dim + 1) * (dim + 2) // 2


def fit(points: Array, values: Array, *, links: Sequence[LinkName] = get_args(LinkName)) -> Quadratic:
    """Fits a quadratic by weighted ridge regression, which has a closed form.

    Args:
        points: One a row, of coordinates around 0.
        values: One a point.
        links: Those to choose from; of several that take the values, the one that predicts left-out points best.
    """
    taking: Sequence[LinkName] = [name for name in links if LINKS[name].takes(values)] or ["identity"]
    fitted = [_fitted(points, values, name, ridge) for name in taking for ridge in _RIDGES]
    return max(fitted, key=lambda one: one.r2)


def _fitted(points: Array, values: Array, name: LinkName, ridge: float) -> Quadratic:
    link = LINKS[name]
    roots = np.sqrt(link.weights(values))
    rows = features(points)
    weighted, targets = rows * roots[:, None], link.inverse(values)
    penalty = np.full(rows.shape[1], ridge * float((weighted**2).mean()) * len(rows))
    penalty[0] = 1e-12
    solved = np.linalg.solve(weighted.T @ weighted + np.diag(penalty), weighted.T)
    coefficients = solved @ (targets * roots)
    leverage = np.clip(np.einsum("ij,ji->i", weighted, solved), 0.0, 1 - 1e-9)
    residuals = targets - rows @ coefficients
    left_out = link.of(targets - residuals / (1 - leverage))
    return Quadratic(link=name, coefficients=coefficients, r2=_r2(values, left_out))


def _r2(values: Array, left_out: Array) -> float:
    """Returns the share of the variance around the mean of the others that predictions explain."""
    count = len(values)
    others = (values.sum() - values) / max(1, count - 1)
    spread = float(((values - others) ** 2).sum())
    error = float(((values - left_out) ** 2).sum())
    return 1 - error / spread if spread > 0 else float(error == 0)
