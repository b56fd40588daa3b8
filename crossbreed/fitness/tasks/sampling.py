"""Several sampled answers to one question, made one value: their mean, the best of k, or what most of them say."""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb

from crossbreed.randomness import spawn


def sample_seeds(seed: int, task: str, item: str, number: int) -> list[int]:
    """Returns a seed for each sampled answer to an item: the same ones for every candidate."""
    return [int(drawn) for drawn in spawn(seed, "samples", task, item).integers(1 << 31, size=number)]


def best_of(values: Sequence[float], k: int) -> float:
    """Returns the expected largest of `k` values drawn without replacement.

    Of values 0 and 1 it is pass@k, the unbiased estimate 1 - C(n - c, k) / C(n, k) with c right ones of n (arXiv
    2107.03374, equation 1).

    >>> best_of([0, 1, 0, 0], 2), best_of([0.2, 0.4, 0.9], 3)
    (0.5, 0.9)
    """
    ways = comb(len(values), k)
    return sum(value * comb(place, k - 1) for place, value in enumerate(sorted(values))) / ways


def most_said(keys: Sequence[Hashable]) -> int:
    """Returns the place of the first answer that says what most say; None says nothing, and has no vote.

    >>> most_said([None, 7, 8, 8, 7, 9]), most_said([None, None])
    (1, 0)
    """
    votes = Counter(key for key in keys if key is not None)
    return keys.index(votes.most_common(1)[0][0]) if votes else 0
