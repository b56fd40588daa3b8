"""How far two recipes are from one another in their weights, tensor by tensor: for merges outside of a space."""

from collections.abc import Collection, Mapping

from crossbreed.recipes.operators import DEPTH_PROFILE
from crossbreed.search_spaces.axes import Key
from crossbreed.search_spaces.groups import Group
from crossbreed.search_spaces.mix import Mix, mixes_of
from crossbreed.sources.naming import depth_of
from crossbreed.types import Recipe


def largest_difference(
    one: Recipe, other: Recipe, touched: Mapping[str, Collection[str]], hashes: Mapping[str, str], *, num_layers: int
) -> float | None:
    """Returns the largest difference between the weights that two recipes give an expert in a tensor.

    Args:
        one: A recipe.
        other: Another one of the same sources.
        touched: Expert -> the tensors that it changes.
        hashes: Source name -> content hash.
        num_layers: The number of layers, for recipes whose weights change with the depth.

    Returns:
        The difference; None where a recipe has no weights to compare.
    """
    names = sorted({name for theirs in touched.values() for name in theirs})
    groups = [
        Group(
            label=name,
            match=name,
            tensors=(name,),
            experts=tuple(expert for expert, theirs in touched.items() if name in theirs),
        )
        for name in names
    ]
    ours, theirs = (mixes_of(recipe, groups, hashes) for recipe in (one, other))
    if ours is None or theirs is None:
        return None
    differences = [
        abs(weight - weights_of(their_mix, group, num_layers).get(expert, 0.0))
        for group, our_mix, their_mix in zip(groups, ours, theirs, strict=True)
        for expert, weight in weights_of(our_mix, group, num_layers).items()
    ]
    return max(differences, default=None)


def weights_of(mix: Mix, group: Group, num_layers: int) -> dict[str, float]:
    """Returns the weight of each expert in a group of one tensor, the factor of its depth included."""
    depth = depth_of(group.tensors[0], num_layers) or 0.0
    alpha, beta = (mix.numbers.get(Key(param.name, None), float(param.default)) for param in DEPTH_PROFILE)
    factor = (alpha + beta * depth) * (1.0 if mix.is_weighted_sum else mix.numbers.get(Key("scale", None), 1.0))
    return {
        expert: factor * mix.numbers[key] for expert in group.experts if (key := Key("weight", expert)) in mix.numbers
    }
