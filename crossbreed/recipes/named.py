"""Named recipes of the literature that need no operator of their own: rules over existing operators."""

from collections.abc import Collection, Mapping, Sequence

from crossbreed.errors import InputError
from crossbreed.recipes.operators import OPERATOR_SPECS, ParamKind
from crossbreed.sources.naming import layers_pattern, names_pattern
from crossbreed.sources.structure import Structure
from crossbreed.types import BASE, ParamValue, Recipe, Rule

ANCHOR = "tsv_m"
"""The operator around which a regression does best."""


def weighted_deltas(weights: Mapping[str, float], *, hashes: Mapping[str, str], dtype: str) -> Recipe:
    """Returns base + the weighted deltas of the given experts, with the same weights in every tensor.

    Args:
        weights: Expert -> coefficient; empty: the base itself.
        hashes: Source name -> content hash.
        dtype: The dtype to which merged tensors are rounded.
    """
    rules = (Rule(match=".*", operator="task_arithmetic", params={"weight": weights}),) if weights else ()
    return Recipe(base=BASE, sources=hashes, rules=rules, dtype=dtype)


def scaled_merge(
    operator: str, scale: float, *, experts: Sequence[str], matrices: Collection[str]
) -> tuple[Rule, Rule]:
    """Returns the rules of an operator's merge of all experts, its delta scaled; what is no matrix has their mean.

    Args:
        operator: Takes a weight of each expert, and no other parameter that it could not do without.
        scale: The factor, or, where the operator has none, the weight of every expert.
        experts: All of them.
        matrices: Names of the tensors that the operator merges.
    """
    has_scale = OPERATOR_SPECS[operator].param("scale") is not None
    weights, mean = (dict.fromkeys(experts, each) for each in (1.0 if has_scale else scale, 1.0 / len(experts)))
    params: dict[str, ParamValue] = {"weight": weights, **({"scale": scale} if has_scale else {})}
    return Rule(match=names_pattern(matrices), operator=operator, params=params), _sum(".*", mean)


def why_no_scaled_merge(operator: str) -> str | None:
    """Returns why an operator does not do for `scaled_merge`; None if it does."""
    spec = OPERATOR_SPECS[operator]
    needed = [param.name for param in spec.params if param.required and param.name != "weight"]
    weight = spec.param("weight")
    if weight is None or weight.kind is not ParamKind.EXPERT or needed:
        return "it takes " + (", ".join(needed) or "no weights of experts")
    if spec.num_experts[1] is not None or spec.degree == 0:
        return "its merge of any number of experts cannot be scaled"
    needed_artifact = spec.needs({})
    return f"it reads {needed_artifact}" if needed_artifact else None


def layer_swapping(
    structure: Structure, *, outer: str, inner: str, bottom: int, top: int, transition: int = 0
) -> tuple[Rule, ...]:
    """Returns the rules that combine one expert's first and last layers with another's middle (arXiv 2410.01335).

    In the paper `outer` is the language expert and `inner` the mathematics expert. Tensors outside the layers
    (embeddings, final norm, head) follow the adjacent layers, which are those of `outer`.

    >>> structure = Structure(tensors={"layers.5.w": None}, touched={}, hashes={}, tied=False)
    >>> rules = layer_swapping(structure, outer="a", inner="b", bottom=1, top=2, transition=1)
    >>> [dict(rule.params["weight"]) for rule in rules]
    [{'a': 0.5, 'b': 0.5}, {'b': 1.0}, {'a': 1.0}]

    Args:
        structure: The tensors of the base.
        outer: The expert that provides the first `bottom` and the last `top` layers.
        inner: The expert that provides the layers between them.
        bottom: Number of first layers.
        top: Number of last layers.
        transition: Number of layers on either side of the middle that are the average of both experts.

    Raises:
        InputError: the model has too few layers.
    """
    first, last = bottom + transition, structure.num_layers - top - transition
    if min(bottom, top, transition) < 0 or first > last:
        raise InputError(
            "there are fewer layers than to be swapped and averaged",
            expected=f"bottom + top + 2 transition of at most {structure.num_layers}, none of them negative",
            got=f"{bottom} + {top} + 2 * {transition}",
            fix="use fewer layers",
        )
    averaged = [*range(bottom, first), *range(last, last + transition)]
    parts: list[tuple[list[int], Mapping[str, float]]] = [
        (averaged, {outer: 0.5, inner: 0.5}),
        (list(range(first, last)), {inner: 1.0}),
    ]
    rules = [_sum(layers_pattern(layers, structure.tensors), weight) for layers, weight in parts if layers]
    return (*rules, _sum(".*", {outer: 1.0}))


def _sum(match: str, weight: Mapping[str, float]) -> Rule:
    return Rule(match=match, operator="task_arithmetic", params={"weight": weight})
