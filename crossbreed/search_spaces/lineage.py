"""Genomes of language models: layer-wise weights of every source in merges of merges (M2N2, arXiv 2508.16204).

SLERP between two models that are themselves sums of the sources is such a sum again, and its two coefficients depend on
the weights only through lengths and one angle. These follow from the inner products of the sources, computed once. So a
child of a hundred generations is a recipe with a few numbers per layer, and crossing two models materialises nothing.

Base and deltas span the space: W = sum_v c_v V_v with V_0 = W0 and V_i = W_i - W0. Keeping the base separate preserves
the precision of the angle between two nearly parallel models. Noise is added to the deltas' coefficients, so children
stay in their span.

Shapes: P positions (the layers, and one before and one after them), C chromosomes, V vectors: the base and the experts.
"""

import math
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossbreed.errors import InputError
from crossbreed.search_spaces.axes import six_decimals
from crossbreed.search_spaces.build import SpacePart
from crossbreed.search_spaces.genomes import GenomeSpace
from crossbreed.search_spaces.groups import pattern_of
from crossbreed.search_spaces.protocol import Genome
from crossbreed.search_spaces.settings import SpaceConfig, SpaceInputs
from crossbreed.search_spaces.slerp import slerp_shares
from crossbreed.sources.naming import ModuleType, is_input_embedding, layer_of, module_of
from crossbreed.sources.structure import Structure
from crossbreed.types import BASE, Recipe, Rule

_OPERATOR = "linear"


class LineageConfig(SpaceConfig):
    """Bred merges: children of two parents, with different shares before and after a split layer. For `m2n2`."""

    kind: Literal["lineage"] = "lineage"
    chromosomes: tuple[ModuleType, ...] = ()
    """Module types that are each split and mixed separately; all others form one chromosome. Empty: only that one."""

    @property
    def operators(self) -> tuple[str, ...]:
        """The operator `linear`: a weighted sum of models."""
        return (_OPERATOR,)


class LineageSpace(GenomeSpace):
    """Genomes [P, C, V]; a chromosome is the vector of all its tensors' weights, in the order of depth.

    A genome is 0 where an expert does not change a layer, and where a chromosome has no tensor.
    """

    def __init__(self, config: LineageConfig, inputs: SpaceInputs) -> None:
        """Builds the space from names alone; weights are read once, at the first crossing.

        Raises:
            InputError: the base has no tensor of a chromosome's module type, fewer than two experts have a delta, or
                no inner products are available.
        """
        structure = inputs.structure
        if inputs.inner_products is None:
            raise InputError(
                "a space of kind `lineage` needs the inner products of the experts' weights",
                expected="an engine that takes weights, or a service that tells them (the right `logprobs`)",
                where="space.kind",
                fix="use `kind: coefficients`, or ask the provider for the right",
            )
        self._hashes, self._dtype, self._inner_products = dict(structure.hashes), inputs.dtype, inputs.inner_products
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
                "there is nothing to cross: at least two experts must differ from the base",
                expected="at least two experts with a non-zero delta",
                got=f"{', '.join(differing) or 'none'} of {', '.join(self._experts)}",
                where="sources.experts",
                fix="add an expert that was fine-tuned from this base, or use `kind: coefficients`",
            )

    @property
    def num_seeds(self) -> int:
        """The number of experts."""
        return len(self._experts)

    @property
    def chromosomes(self) -> tuple[str, ...]:
        """The module types, and `rest`."""
        return self._chromosomes

    def seed(self, index: int, scale: float) -> Genome:
        """Returns W0 + scale d_i: at 1 an expert, as in the paper."""
        genome_V = np.zeros(1 + len(self._experts))
        genome_V[0], genome_V[1 + index] = 1.0, scale
        return np.asarray(genome_V * self._exists_PCV)

    def cross(self, a: Genome, b: Genome, splits: tuple[float, ...], weights: tuple[float, ...]) -> Genome:
        """Returns the child: for each chromosome, SLERP at w before the split and at 1 - w from it on.

        As in the paper, the angle is that of the whole vectors, whatever the split, and SLERP's shares of the parents
        need not sum to one: between two models at some angle, the base's own share grows a little too.
        """
        child = np.empty_like(a)
        for c, (split, weight) in enumerate(zip(splits, weights, strict=True)):
            angle = self._angle(a[:, c], b[:, c], self._gram_PCVV[:, c])
            present = [p for p, row in enumerate(self._names) if row[c]]
            edge = present[int(split * len(present))]
            for part, at in ((slice(None, edge), weight), (slice(edge, None), 1.0 - weight)):
                share_a, share_b = slerp_shares(angle, at)
                child[part, c] = share_a * a[part, c] + share_b * b[part, c]
        return child

    def perturb(self, genome: Genome, std: float, rng: np.random.Generator) -> Genome:
        """Returns the genome with normal noise added to the coefficient of every existing delta."""
        noise_PCV = std * rng.standard_normal(genome.shape) * self._exists_PCV
        noise_PCV[..., 0] = 0.0
        return np.asarray(genome + noise_PCV)

    def decode(self, genome: Genome) -> Recipe:
        """Returns a weighted sum of the sources; neighbouring layers with the same weights share a rule.

        Six decimals are kept: finer than bfloat16 resolves, and too coarse for the last digits of the angle, which
        differ between processors.
        """
        rules: list[Rule] = []
        unclaimed = set(self._tensors)
        for c in range(len(self._chromosomes)):
            for names, weights in self._runs(genome, c):
                unclaimed -= set(names)
                match = pattern_of(names, frozenset(names), self._tensors) if unclaimed else ".*"
                rules.append(Rule(match=match, operator=_OPERATOR, params={"weight": weights, "normalize": False}))
        return Recipe(base=BASE, sources=self._hashes, rules=tuple(rules), dtype=self._dtype)

    def _runs(self, genome: Genome, c: int) -> list[tuple[list[str], dict[str, float]]]:
        """Returns the stretches of a chromosome with equal weights, each with the names of its tensors."""
        runs: list[tuple[list[str], dict[str, float]]] = []
        for p, row in enumerate(self._names):
            if row[c]:
                weights = self._weights(genome[p, c])
                if not runs or runs[-1][1] != weights:
                    runs.append(([], weights))
                runs[-1][0].extend(row[c])
        return runs

    def _weights(self, genome_V: Genome) -> dict[str, float]:
        """Returns the weights of the models themselves: each delta includes its share of W0, the base adds the rest."""
        total, *deltas = map(six_decimals, genome_V.tolist())
        return {BASE: six_decimals(total - math.fsum(deltas)), **dict(zip(self._experts, deltas, strict=True))}

    @cached_property
    def _gram_PCVV(self) -> NDArray[np.float64]:
        return np.array([[self._inner_products(names) for names in row] for row in self._names])

    @staticmethod
    def _angle(a_PV: Genome, b_PV: Genome, gram_PVV: NDArray[np.float64]) -> float:
        """Returns the angle between two sums of the sources, by Kahan's formula (exact if parallel); 0 if one is 0."""

        def length(x_PV: Genome) -> float:
            return math.sqrt(max(0.0, math.fsum(np.einsum("pv,pvw,pw->p", x_PV, gram_PVV, x_PV).tolist())))

        lengths = length(a_PV), length(b_PV)
        if not all(lengths):
            return 0.0
        u_PV, v_PV = a_PV / lengths[0], b_PV / lengths[1]
        return 2 * math.atan2(length(u_PV - v_PV), length(u_PV + v_PV))


def _cells(config: LineageConfig, structure: Structure) -> tuple[tuple[str, ...], list[list[list[str]]]]:
    """Returns the chromosomes, and the names of their tensors at each position; many cells are empty."""
    modules = tuple(dict.fromkeys(config.chromosomes))
    cells: list[list[list[str]]] = [[[] for _ in (*modules, None)] for _ in range(structure.num_layers + 2)]
    for name in structure.tensors:
        layer, module = layer_of(name), module_of(name)
        if layer is None:
            layer = -1 if is_input_embedding(name) else structure.num_layers
        cells[layer + 1][modules.index(module) if module in modules else -1].append(name)
    present = [c for c in range(len(modules) + 1) if any(row[c] for row in cells)]
    for c, module in enumerate(modules):
        if c not in present:
            raise InputError(
                f"the base has no tensor of module type `{module}`",
                expected=", ".join(sorted({module_of(name) for name in structure.tensors})),
                got=str(module),
                where="space.chromosomes",
            )
    labels = (*map(str, modules), "rest" if modules else "all")
    return tuple(labels[c] for c in present), [[row[c] for c in present] for row in cells]


PART = SpacePart(config=LineageConfig, make=LineageSpace, paper="arXiv 2508.16204")
