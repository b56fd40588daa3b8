"""Distances of predictions of which the most likely tokens are known: what is not listed counts as one token.

To put outcomes together never raises a divergence or an entropy. So each value is a lower bound of that over the whole
vocabulary, and equal to it where every token is listed (or those that are not are predicted alike, up to a factor).

Shapes: A tokens of an answer, K tokens listed at a place.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def jensen_shannon(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Returns the mean Jensen-Shannon divergence of two models' predictions at the tokens of an answer, in nats.

    Args:
        some: For each token: log-probabilities of the listed tokens.
        others: Those of the same tokens by the other model.

    >>> round(jensen_shannon([[0.0]], [[float("-inf")]]), 4), jensen_shannon([[-1.0, -2.0]], [[-1.0, -2.0]])
    (0.6931, 0.0)
    """
    return _mean(
        (_relative(p_K, (p_K + q_K) / 2) + _relative(q_K, (p_K + q_K) / 2)) / 2
        for p_K, q_K in zip(map(_with_rest, some), map(_with_rest, others), strict=True)
    )


def entropy(places: Sequence[Sequence[float]]) -> float:
    """Returns the mean entropy of predictions at the tokens of an answer, in nats.

    >>> round(entropy([[-0.6931471805599453]]), 4)
    0.6931
    """
    return _mean(-float(np.sum(p_K * _log(p_K))) for p_K in map(_with_rest, places))


def _mean(values: Iterable[float]) -> float:
    found = [max(0.0, value) for value in values]  # rounding
    return sum(found) / len(found)


def _with_rest(logprobs: Sequence[float]) -> Floats:
    """Returns the probabilities of the listed tokens, and of all others together."""
    listed_K = np.exp(np.array(logprobs, dtype=np.float64))
    return np.append(listed_K, max(0.0, 1.0 - float(listed_K.sum())))


def _relative(p_K: Floats, q_K: Floats) -> float:
    """Returns the Kullback-Leibler divergence; `q_K` is not 0 where `p_K` is not."""
    return float(np.sum(p_K * (_log(p_K) - _log(q_K))))


def _log(p_K: Floats) -> Floats:
    """Returns logarithms; 0 of 0, since p log p is 0 there."""
    found: Floats = np.log(np.where(p_K > 0, p_K, 1.0))
    return found
