"""What the operators mean, in fp64: slow, obvious, whole tensors at a time. The fast kernels are tested against it.

An adapter's tensor is W0 + s B A; nothing is grouped, blocked or rounded. A family of operators is a module here, as it
is in `crossbreed.kernels.operators`.
"""

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

import torch

from crossbreed.kernels.artifacts import Grams, bind_grams
from crossbreed.kernels.facts import Facts
from crossbreed.kernels.materialize import bind_experts, parents_of
from crossbreed.kernels.reference import columns, geometry, linear, regression, selection, sparse, spectral
from crossbreed.kernels.reference.tensor import Reference, Tensor
from crossbreed.operators import OPERATOR_SPECS
from crossbreed.recipes import rule_finder
from crossbreed.sources import Sources
from crossbreed.types import Recipe, Rule

REFERENCES: Mapping[str, Reference] = MappingProxyType(
    {
        name: reference
        for family in (linear, sparse, selection, geometry, columns, spectral, regression)
        for name, reference in family.REFERENCES.items()
    }
)
"""Operator name -> its meaning."""


def materialize_fp64(
    recipe: Recipe, sources: Sources, artifacts: Collection[Grams] = ()
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields every floating-point tensor of the recipe in fp64, sorted by name."""
    experts, grams, find_rule = bind_experts(recipe, sources), bind_grams(recipe, artifacts), rule_finder(recipe)
    for name in sorted(sources.base.tensors):
        stored, rule = sources.base.tensor(name), find_rule(name)
        if not stored.is_floating_point():
            continue
        if rule is None:
            yield name, stored.double()
            continue
        parents = parents_of(name, recipe.base, sources.base, experts, Facts(), grams)
        yield name, merged_fp64(Tensor.of(parents), rule)


def merged_fp64(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Returns one tensor: what the operator makes of it, and W0 + (alpha + beta depth) (W - W0) of that (LiNeS)."""
    merged, spec = REFERENCES[rule.operator](tensor, rule), OPERATOR_SPECS[rule.operator]
    alpha, beta = spec.scalar(rule, "lines_alpha"), spec.scalar(rule, "lines_beta")
    factor = alpha if tensor.depth is None else alpha + beta * tensor.depth
    return tensor.base + factor * (merged - tensor.base)
