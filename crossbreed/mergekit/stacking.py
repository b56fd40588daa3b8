"""mergekit's slices of single models (`passthrough`) as a recipe with layers of its own, and back."""

from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from typing import Any

from crossbreed.errors import InputError
from crossbreed.mergekit.config import ModelReference
from crossbreed.mergekit.plan import MergePlan, OutputTensor
from crossbreed.recipes.layers import output_factors
from crossbreed.sources.naming import RESIDUAL_WRITERS, is_before_layers, layer_of, names_pattern, writes_residual
from crossbreed.sources.structure import Structure
from crossbreed.types import BASE, LayerStep, Recipe, Rule


def stacked_recipe(
    plan: MergePlan, names: Mapping[ModelReference, str], hashes: Mapping[str, str], dtype: str
) -> Recipe:
    """Returns the recipe of a plan whose layers are single models'.

    Args:
        plan: The plan of the merge.
        names: Model -> its name in the recipe.
        hashes: Source name -> content hash.
        dtype: The dtype of the merge.

    Raises:
        InputError: layers are scaled otherwise than by what they add to their input, or a head is of another kind.
    """
    assert plan.config.method.name == "passthrough", "others merge several models"
    return Recipe(
        base=BASE,
        sources={name: hashes[name] for name in (BASE, *(name for name in names.values() if name != BASE))},
        rules=tuple(_outside(plan, names)),
        layers=tuple(_steps(plan, names)),
        dtype=dtype,
    )


def why_not_stacked(recipe: Recipe, structure: Structure, changes: Mapping[str, Collection[str]]) -> str | None:
    """Returns why mergekit cannot stack the layers of a recipe that has its own; None if it can.

    Args:
        recipe: The recipe.
        structure: The structure of its base.
        changes: Source -> the tensors that it changes.
    """
    if recipe.rules:
        return "mergekit stacks layers as they are, and this recipe merges them first"
    for source, is_first in ((recipe.layers[0][0], True), (recipe.layers[-1][0], False)):
        for name in structure.tensors:
            if layer_of(name) is None and is_before_layers(name) is is_first and name in changes[source]:
                return f"mergekit takes `{name}` from the model of its layer, `{source}`, and this recipe from the base"
    return None


def stacked_slices(recipe: Recipe, structure: Structure, models: Mapping[str, str]) -> dict[str, Any]:
    """Returns a recipe with layers of its own as a mergekit configuration, where `why_not_stacked` has no reason.

    Args:
        recipe: The recipe.
        structure: The structure of its base.
        models: Source -> model, for mergekit.
    """
    writers = [f"{module}." for module in RESIDUAL_WRITERS if any(f".{module}." in name for name in structure.tensors)]
    slices: list[dict[str, Any]] = []
    factors = output_factors(recipe.layers)
    steps = [(source, number, factor) for (source, number, _), factor in zip(recipe.layers, factors, strict=True)]
    places = enumerate(steps)
    for _, run in groupby(places, key=lambda place: (place[1][0], place[1][1] - place[0], place[1][2])):
        (_, (source, first, factor)), *rest = run
        entry: dict[str, Any] = {"model": models[source], "layer_range": [first, first + 1 + len(rest)]}
        if factor != 1:
            filters = [{"filter": writer, "value": factor} for writer in writers]
            entry["parameters"] = {"scale": [*filters, {"value": 1.0}]}
        slices.append({"sources": [entry]})
    return {
        "merge_method": "passthrough",
        "base_model": models[recipe.base],
        "dtype": "float32",
        "out_dtype": recipe.dtype,
        "slices": slices,
    }


def _outside(plan: MergePlan, names: Mapping[ModelReference, str]) -> Iterator[Rule]:
    """Yields rules for embeddings, final norm and head that are not the base's."""
    found: dict[tuple[str, float], list[str]] = {}
    for tensor in plan.tensors:
        if not _is_inside(tensor):
            source, scale = names[tensor.inputs[0].model], _scale(tensor)
            if tensor.inputs[0].tensor != tensor.name:
                raise _refusal("a recipe has the base's tied embeddings", "one kind of head", f"`{tensor.name}`")
            if (source, scale) != (BASE, 1.0):
                found.setdefault((source, scale), []).append(tensor.name)
    for (source, scale), matched in found.items():
        yield Rule(match=names_pattern(matched), operator="passthrough", params={"source": source, "scale": scale})


def _steps(plan: MergePlan, names: Mapping[ModelReference, str]) -> Iterator[LayerStep]:
    before = 1.0
    for place, (model, number) in enumerate(plan.layers):
        inside = [tensor for tensor in plan.tensors if layer_of(tensor.name) == place]
        writing = {_scale(tensor) for tensor in inside if writes_residual(tensor.name)}
        others = {_scale(tensor) for tensor in inside if not writes_residual(tensor.name)}
        if others - {1.0} or len(writing) > 1 or min(writing, default=1.0) <= 0:
            raise _refusal(
                "a recipe scales what a layer adds to its input, and nothing else in it",
                "one positive `scale` of output projections (o_proj, down_proj)",
                f"scales {sorted(writing | others)} in layer {number} of `{model}`",
            )
        factor = min(writing, default=1.0)
        yield names[model], number, before / factor
        before = factor


def _is_inside(tensor: OutputTensor) -> bool:
    return layer_of(tensor.name) is not None


def _scale(tensor: OutputTensor) -> float:
    scale = tensor.inputs[0].parameters.get("scale", 1.0)
    assert isinstance(scale, int | float), "the plan has numbers"
    return float(scale)


def _refusal(problem: str, expected: str, got: str) -> InputError:
    return InputError(problem, expected=expected, got=got, fix="use mergekit's own arithmetic: --numerics mergekit")
