"""Genomes of language models: how much of every source, layer by layer, in merges of merges (M2N2, arXiv 2508.16204).

SLERP between two models that are themselves sums of the sources is such a sum again, and its two numbers depend on the
weights through lengths and one angle alone. Those follow from the inner products of the sources, found once. So a child
of a hundred generations is a recipe with a few numbers a layer, and nothing is materialised to mate.

Base and deltas span the space: W = sum_v c_v V_v with V_0 = W0 and V_i = W_i - W0. Told apart so, the angle between two
nearly parallel models keeps its digits. Noise is on the deltas' coefficients: whatever is born stays in their span.

Shapes: P positions (layers, with what is before and behind them), C chromosomes, V vectors: the base and the experts.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.search_spaces.arc import arc_shares
from crossbreed.search_spaces.axes import six_decimals
from crossbreed.search_spaces.groups import pattern_of
from crossbreed.search_spaces.layout import BASE
from crossbreed.search_spaces.protocol import Genome
from crossbreed.sources.structure import ModuleType, Structure, layer_of, module_of
from crossbreed.types import Recipe, Rule

Products: TypeAlias = Callable[[Sequence[str]], NDArray[np.float64]]
"""Names of tensors -> [V, V]: inner products of base and deltas in the order of the spec, summed over the tensors."""


class LineageConfig(Config):
    """Merges that are bred: children of two parents, with other shares before and behind a layer. For `m2n2`."""

    kind: Literal["lineage"] = "lineage"
    chromosomes: tuple[ModuleType, ...] = ()
    """Module types that are split and mixed each for itself; all others go together. Empty: everything does."""


class LineageSpace:
    """Genomes [P, C, V]; a chromosome is the vector of all its tensors' weights, in the order of depth.

    Where an expert leaves a layer as it is there is no delta, and where a chromosome has no tensor there is nothing: a
    genome is 0 there.
    """

    def __init__(self, config: LineageConfig, structure: Structure, dtype: str, products: Products) -> None:
        """Builds the space from names alone; `products` reads weights, once, when two models are first crossed.

        Raises:
            InputError: the base has no tensor of a chromosome's module type, or fewer than two experts have a delta.
        """
        self._hashes, self._dtype, self._products = dict(structure.hashes), dtype, products
        self._experts = structure.experts
        self._chromosomes, self._names = _cells(config, structure)
        self._tensors = tuple(structure.tensors)
        touched = structure.touched.values()
        self._exists_PCV = np.array(
            [
                [[names != [], *(not theirs.isdisjoint(names) for theirs in touched)] for names in row]
                for row in self._names
            ]
        )
        differing = [expert for expert, theirs in structure.touched.items() if theirs]
        if len(differing) < 2:
            raise InputError(
                "there is nothing to cross: two models at least must differ from the base",
                expected="at least two experts with a non-zero delta",
                got=f"{', '.join(differing) or 'none'} of {', '.join(self._experts)}",
                where="sources.experts",
                fix="add an expert that was fine-tuned from this base, or search `kind: coefficients`",
            )

    @property
    def num_seeds(self) -> int:
        """The experts."""
        return len(self._experts)

    @property
    def chromosomes(self) -> tuple[str, ...]:
        """Module types, and what is left; see GenomeSpace."""
        return self._chromosomes

    def seed(self, index: int, scale: float) -> Genome:
        """Returns W0 + scale d_i: at 1 an expert, as in the paper."""
        genome_V = np.zeros(1 + len(self._experts))
        genome_V[0], genome_V[1 + index] = 1.0, scale
        return np.asarray(genome_V * self._exists_PCV)

    def cross(self, a: Genome, b: Genome, splits: tuple[float, ...], weights: tuple[float, ...]) -> Genome:
        """Returns the child: a chromosome at a time, on the arc at w before the split and at 1 - w from it on.

        As in the paper, the angle is the whole vector's, whatever the split, and the arc's shares of both parents need
        not sum to one: between two models at some angle, the base's own part grows a little too.
        """
        child = np.empty_like(a)
        for c, (split, weight) in enumerate(zip(splits, weights, strict=True)):
            angle = self._angle(a[:, c], b[:, c], self._gram_PCVV[:, c])
            present = [p for p, row in enumerate(self._names) if row[c]]
            edge = present[int(split * len(present))]
            for part, at in ((slice(None, edge), weight), (slice(edge, None), 1.0 - weight)):
                share_a, share_b = arc_shares(angle, at)
                child[part, c] = share_a * a[part, c] + share_b * b[part, c]
        return child

    def perturb(self, genome: Genome, std: float, rng: np.random.Generator) -> Genome:
        """Returns the genome with normal noise on the coefficient of every delta that there is."""
        noise_PCV = std * rng.standard_normal(genome.shape) * self._exists_PCV
        noise_PCV[..., 0] = 0.0
        return np.asarray(genome + noise_PCV)

    def decode(self, genome: Genome) -> Recipe:
        """Returns a weighted sum of the sources; neighbouring layers with the same weights share a rule.

        Six decimals are kept: they tell models apart that differ by less than bfloat16 does, and hide the last digits
        of the angle, which another machine may find otherwise.
        """
        rules: list[Rule] = []
        unclaimed = set(self._tensors)
        for c in range(len(self._chromosomes)):
            for names, weights in self._runs(genome, c):
                unclaimed -= set(names)
                match = pattern_of(names, frozenset(names), self._tensors) if unclaimed else ".*"
                rules.append(Rule(match=match, operator="linear", params={"weight": weights, "normalize": False}))
        return Recipe(base=BASE, sources=self._hashes, rules=tuple(rules), dtype=self._dtype)

    def _runs(self, genome: Genome, c: int) -> list[tuple[list[str], dict[str, float]]]:
        """Stretches of a chromosome with the same weights of the sources."""
        runs: list[tuple[list[str], dict[str, float]]] = []
        for p, row in enumerate(self._names):
            if row[c]:
                weights = self._weights(genome[p, c])
                if not runs or runs[-1][1] != weights:
                    runs.append(([], weights))
                runs[-1][0].extend(row[c])
        return runs

    def _weights(self, genome_V: Genome) -> dict[str, float]:
        """Of the models themselves: what is left of W0 when each delta has brought its own."""
        total, *deltas = map(six_decimals, genome_V.tolist())
        return {BASE: six_decimals(total - math.fsum(deltas)), **dict(zip(self._experts, deltas, strict=True))}

    @cached_property
    def _gram_PCVV(self) -> NDArray[np.float64]:
        return np.array([[self._products(names) for names in row] for row in self._names])

    @staticmethod
    def _angle(a_PV: Genome, b_PV: Genome, gram_PVV: NDArray[np.float64]) -> float:
        """Between two sums of the sources, by Kahan's formula: exact where they are parallel. 0 where one vanishes."""

        def length(x_PV: Genome) -> float:
            return math.sqrt(max(0.0, math.fsum(np.einsum("pv,pvw,pw->p", x_PV, gram_PVV, x_PV).tolist())))

        lengths = length(a_PV), length(b_PV)
        if not all(lengths):
            return 0.0
        u_PV, v_PV = a_PV / lengths[0], b_PV / lengths[1]
        return 2 * math.atan2(length(u_PV - v_PV), length(u_PV + v_PV))


def _cells(config: LineageConfig, structure: Structure) -> tuple[tuple[str, ...], list[list[list[str]]]]:
    """The chromosomes, and the names of the tensors at each position and on each of them; many a cell is empty."""
    modules = tuple(dict.fromkeys(config.chromosomes))
    cells: list[list[list[str]]] = [[[] for _ in (*modules, None)] for _ in range(structure.num_layers + 2)]
    for name in structure.tensors:
        layer, module = layer_of(name), module_of(name)
        if layer is not None:
            position = layer + 1
        else:
            is_first = module is ModuleType.EMBEDDING and "lm_head" not in name
            position = 0 if is_first else structure.num_layers + 1
        cells[position][modules.index(module) if module in modules else -1].append(name)
    present = [c for c in range(len(modules) + 1) if any(row[c] for row in cells)]
    for c, asked in enumerate(modules):
        if c not in present:
            raise InputError(
                f"the base has no tensor of module type `{asked}`",
                expected=", ".join(sorted({module_of(name) for name in structure.tensors})),
                got=str(asked),
                where="space.chromosomes",
            )
    labels = (*map(str, modules), "rest" if modules else "all")
    return tuple(labels[c] for c in present), [[row[c] for c in present] for row in cells]
