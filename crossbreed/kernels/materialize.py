"""Recipe + sources -> the merged tensors, one after the other, none of them kept.

The same stream is what an engine is given, what is fingerprinted and what is published.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias

import torch

from crossbreed.errors import InputError, InvalidWeights
from crossbreed.kernels.artifacts import Grams, bind_grams
from crossbreed.kernels.execute import execute
from crossbreed.kernels.facts import Facts
from crossbreed.kernels.operators import OPERATORS
from crossbreed.kernels.programs import Program
from crossbreed.kernels.tensors import Parent, Parents
from crossbreed.operators import OPERATOR_SPECS
from crossbreed.recipes import rule_finder
from crossbreed.sources import Adapter, Checkpoint, Sources, layer_of
from crossbreed.types import Recipe, Rule, WeightStream

Experts: TypeAlias = Mapping[str, Checkpoint | Adapter]


def materialize(
    recipe: Recipe, sources: Sources, facts: Facts | None = None, *, artifacts: Collection[Grams] = ()
) -> WeightStream:
    """Returns the recipe's weights: every tensor of the base, sorted by name, made when asked for.

    Tensors that nothing changes are the base's own, mapped and not copied where the dtype agrees: do not write to
    them. Sources are found by content hash; what they are called in the recipe and in `sources` need not agree.

    Args:
        recipe: What to merge.
        sources: Opened.
        facts: What earlier merges of the same sources found out; a search keeps one for its life.
        artifacts: Opened; those that the recipe names are found by content hash.

    Raises:
        InputError: at once, when `sources` lacks a source of the recipe, or `artifacts` an artifact.
        InvalidWeights: on reaching a tensor that holds NaN or Inf.
    """
    grams = bind_grams(recipe, artifacts)
    return _stream(recipe, sources.base, bind_experts(recipe, sources), facts or Facts(), grams)


def bind_experts(recipe: Recipe, sources: Sources) -> dict[str, Checkpoint | Adapter]:
    """Returns the recipe's experts by their names in it, sorted by content hash.

    Raises:
        InputError: when `sources` has another base, or lacks an expert.
    """
    opened = {expert.hash: expert for expert in sources.experts.values()}
    for name, wanted in recipe.sources.items():
        if (wanted != sources.base.hash) if name == recipe.base else (wanted not in opened):
            have = {"base": sources.base, **sources.experts}
            raise InputError(
                f"the recipe's source `{name}` is not among the models that were opened",
                expected=f"content hash {wanted}",
                got=", ".join(f"{key} {source.hash}" for key, source in have.items()),
                where=f"recipe {recipe.id}",
                fix="open the models that the recipe was made for, unchanged since",
            )
    experts = [(name, opened[hash_]) for name, hash_ in recipe.sources.items() if name != recipe.base]
    return dict(sorted(experts, key=lambda item: (item[1].hash, item[0])))


def _stream(recipe: Recipe, base: Checkpoint, experts: Experts, facts: Facts, grams: Grams | None) -> WeightStream:
    find_rule, dtype = rule_finder(recipe), getattr(torch, recipe.dtype)
    for name in sorted(base.tensors):
        tensor, rule = base.tensor(name), find_rule(name)
        if tensor.is_floating_point():
            if rule is None:
                tensor = tensor.to(dtype)
            else:
                try:
                    program = program_of(parents_of(name, recipe.base, base, experts, facts, grams), rule)
                    tensor = execute(program, tensor, dtype)
                except InvalidWeights as fault:
                    raise InvalidWeights(f"`{name}` of recipe {recipe.id}: {fault}") from None
            if not _is_finite(tensor):
                raise InvalidWeights(f"`{name}` of recipe {recipe.id} holds NaN or Inf")
        yield name, tensor


def program_of(parents: Parents, rule: Rule) -> Program:
    """Returns what a rule computes of one tensor: its operator's program, with the rule's depth profile."""
    program = OPERATORS[rule.operator](parents, rule)
    factor = OPERATOR_SPECS[rule.operator].depth_factor(rule, parents.depth)
    return program if factor == 1 else program.scaled(factor)


def parents_of(
    name: str, base_name: str, base: Checkpoint, experts: Experts, facts: Facts, grams: Grams | None = None
) -> Parents:
    """Returns what one tensor of a merge is made from."""
    layer, last = layer_of(name), max((layer_of(other) or 0 for other in base.tensors), default=0)
    return Parents(
        name=name,
        depth=None if layer is None else layer / max(1, last),
        base_name=base_name,
        base=base.tensor(name),
        base_hash=base.hash,
        experts=tuple(parts_of(name, experts)),
        expert_names=tuple(experts),
        expert_hashes=tuple(expert.hash for expert in experts.values()),
        facts=facts,
        model=lambda: (
            parents_of(other, base_name, base, experts, facts, grams)
            for other in sorted(base.tensors)
            if base.tensor(other).is_floating_point()
        ),
        grams=grams,
    )


def parts_of(name: str, experts: Experts) -> Iterator[Parent]:
    """Yields what each expert that changes the tensor has of it, in the order of `experts`."""
    for expert_name, expert in experts.items():
        if name in expert.touched:
            value = expert.factors(name) if isinstance(expert, Adapter) else expert.tensor(name)
            assert value is not None, f"{expert_name} says that it changes {name} and has nothing of it"
            yield Parent(name=expert_name, hash=expert.hash, value=value)


def _is_finite(tensor: torch.Tensor) -> bool:
    """One pass without a copy: both extremes are NaN as soon as one element is."""
    return tensor.numel() == 0 or all(math.isfinite(extreme.item()) for extreme in tensor.aminmax())
