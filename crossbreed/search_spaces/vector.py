"""Genomes that are plain vectors: small problems, and evolution from scratch.

Only the seeds are given. All others derive from them, so a run's journal contains births and no vectors.
"""

import math
from collections.abc import Sequence

import numpy as np

from crossbreed.search_spaces.genomes import GenomeSpace
from crossbreed.search_spaces.protocol import Genome
from crossbreed.search_spaces.slerp import slerp_shares


class VectorSpace(GenomeSpace):
    """Vectors of equal length, crossed as in M2N2's first experiment (arXiv 2508.16204): one split anywhere, SLERP.

    >>> space = VectorSpace([np.array([1.0, 0.0]), np.array([0.0, 1.0])])
    >>> space.cross(space.seed(0, 1.0), space.seed(1, 1.0), splits=(0.5,), weights=(0.0,)).tolist()
    [1.0, 1.0]
    """

    def __init__(self, seeds: Sequence[Genome]) -> None:
        assert seeds
        assert all(seed.ndim == 1 and seed.shape == seeds[0].shape for seed in seeds)
        self._seeds = tuple(seeds)

    @property
    def num_seeds(self) -> int:
        """The number of given vectors."""
        return len(self._seeds)

    @property
    def chromosomes(self) -> tuple[str, ...]:
        """One chromosome: the whole vector."""
        return ("all",)

    def seed(self, index: int, scale: float) -> Genome:
        """Returns a given vector. There is no base, so `scale` has no effect."""
        return self._seeds[index]

    def cross(self, a: Genome, b: Genome, splits: tuple[float, ...], weights: tuple[float, ...]) -> Genome:
        """Returns the child: SLERP of the whole vectors, at w before the split and at 1 - w after it."""
        (split,), (weight,) = splits, weights
        edge, angle = int(split * len(a)), _angle(a, b)
        child = np.empty_like(a)
        for part, at in ((slice(None, edge), weight), (slice(edge, None), 1.0 - weight)):
            share_a, share_b = slerp_shares(angle, at)
            child[part] = share_a * a[part] + share_b * b[part]
        return child

    def perturb(self, genome: Genome, std: float, rng: np.random.Generator) -> Genome:
        """Returns the vector with independent normal noise on every element, drawn in fp32: twice as fast."""
        return genome + std * rng.standard_normal(len(genome), dtype=np.float32)

    def decode(self, genome: Genome) -> None:
        """Returns None: the vector itself is evaluated."""


def _angle(a: Genome, b: Genome) -> float:
    """Returns the angle between two vectors; 0 if one is 0. By `einsum`: bits of BLAS depend on the thread count."""
    squares = float(np.einsum("i,i", a, a)) * float(np.einsum("i,i", b, b))
    return math.acos(min(1.0, max(-1.0, float(np.einsum("i,i", a, b)) / math.sqrt(squares)))) if squares else 0.0
