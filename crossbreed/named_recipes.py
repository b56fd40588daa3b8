"""Recipes to which a paper gave a name and that need no operator of their own: rules over the operators there are."""

from collections.abc import Mapping

from crossbreed.errors import InputError
from crossbreed.sources.structure import Structure, layers_pattern
from crossbreed.types import Rule


def layer_swapping(
    structure: Structure, *, outer: str, inner: str, bottom: int, top: int, transition: int = 0
) -> tuple[Rule, ...]:
    """Returns the rules that put one expert's first and last layers around another's middle (arXiv 2410.01335).

    In the paper `outer` speaks the language and `inner` does the mathematics. What is in no layer (embeddings, final
    norm, head) goes with the layers next to it, which are those of `outer`.

    >>> structure = Structure(tensors={"layers.5.w": None}, touched={}, hashes={}, tied=False)
    >>> rules = layer_swapping(structure, outer="a", inner="b", bottom=1, top=2, transition=1)
    >>> [dict(rule.params["weight"]) for rule in rules]
    [{'a': 0.5, 'b': 0.5}, {'b': 1.0}, {'a': 1.0}]

    Args:
        structure: The tensors of the base.
        outer: The expert whose first `bottom` and last `top` layers are taken.
        inner: The expert whose layers between them are taken.
        bottom: How many of the first layers.
        top: How many of the last layers.
        transition: How many layers on either side of the middle are the average of both experts.

    Raises:
        InputError: the model has fewer layers than these.
    """
    first, last = bottom + transition, structure.num_layers - top - transition
    if min(bottom, top, transition) < 0 or first > last:
        raise InputError(
            "there are fewer layers than are to be swapped and averaged",
            expected=f"bottom + top + 2 transition of at most {structure.num_layers}, none of them negative",
            got=f"{bottom} + {top} + 2 * {transition}",
            fix="take fewer layers",
        )
    averaged = [*range(bottom, first), *range(last, last + transition)]
    parts: list[tuple[list[int], Mapping[str, float]]] = [
        (averaged, {outer: 0.5, inner: 0.5}),
        (list(range(first, last)), {inner: 1.0}),
    ]
    rules = [_sum(layers_pattern(layers), weight) for layers, weight in parts if layers]
    return (*rules, _sum(".*", {outer: 1.0}))


def _sum(match: str, weight: Mapping[str, float]) -> Rule:
    return Rule(match=match, operator="task_arithmetic", params={"weight": weight})
