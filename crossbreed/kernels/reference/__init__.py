"""The operators' definitions in fp64: slow, obvious, whole tensors at a time. The fast kernels are tested against it.

An adapter's tensor is W0 + s B A; nothing is grouped, blocked or rounded. A family of operators is a module here, as it
is in `crossbreed.kernels.operators`.
"""

from collections.abc import Collection, Iterator, Mapping

import torch

from crossbreed.kernels.artifacts.binding import bind_artifacts
from crossbreed.kernels.artifacts.files import Artifact
from crossbreed.kernels.materialize import bind_experts, inputs_of
from crossbreed.kernels.operators import Resolved
from crossbreed.kernels.reference.tensor import Reference, Tensor
from crossbreed.kernels.source_cache import SourceCache
from crossbreed.recipes import rule_finder
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.sources import Sources
from crossbreed.types import Recipe, Rule

REFERENCES: Mapping[str, Reference] = Resolved(lambda part: part.reference)
"""Operator name -> its definition."""


def materialize_fp64(
    recipe: Recipe, sources: Sources, artifacts: Collection[Artifact] = ()
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields every floating-point tensor of the recipe in fp64, sorted by name."""
    experts, bound, find_rule = bind_experts(recipe, sources), bind_artifacts(recipe, artifacts), rule_finder(recipe)
    for name in sorted(sources.base.tensors):
        stored, rule = sources.base.tensor(name), find_rule(name)
        if not stored.is_floating_point():
            continue
        if rule is None:
            yield name, stored.double()
            continue
        inputs = inputs_of(name, recipe.base, sources.base, experts, SourceCache(), bound)
        yield name, merged_fp64(Tensor.of(inputs), rule)


def merged_fp64(tensor: Tensor, rule: Rule) -> torch.Tensor:
    """Returns one tensor: what the operator makes of it, and W0 + (alpha + beta depth) (W - W0) of that (LiNeS)."""
    reference, spec = REFERENCES[rule.operator], OPERATOR_SPECS[rule.operator]
    is_to_turn = tensor.is_stored_transposed and spec.by_inputs
    merged = reference(tensor.turned, rule).T if is_to_turn else reference(tensor, rule)
    alpha, beta = spec.scalar(rule, "lines_alpha"), spec.scalar(rule, "lines_beta")
    factor = alpha if tensor.depth is None else alpha + beta * tensor.depth
    return tensor.base + factor * (merged - tensor.base)
