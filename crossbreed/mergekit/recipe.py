"""Converts a mergekit configuration to a recipe, computed in fp32 and rounded once; errors name what a recipe lacks.

A recipe keeps every tensor in its place: layers can be swapped between models, not stacked. Its experts are fine-tunes
of one base, and it uses the base's vocabulary.
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from crossbreed.errors import InputError
from crossbreed.mergekit.config import MergeConfig, ModelReference
from crossbreed.mergekit.methods import BaseRole, Scope
from crossbreed.mergekit.plan import MergePlan, OutputTensor
from crossbreed.parsing import any_of
from crossbreed.recipes import DTYPES, parse_recipe
from crossbreed.recipes.operators import OPERATOR_SPECS, OperatorSpec
from crossbreed.sources.naming import names_pattern
from crossbreed.types import BASE, RECIPE_SCHEMA, Recipe, canonical_json

_OPERATORS = {"ramplus_tl": "ramplus"}
_NAMES = {"lambda": "scale", "normalize_weights": "normalize"}
_NO_EFFECT: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "task_arithmetic": frozenset({"density", "rescale", "int8_mask"}),
        "multislerp": frozenset({"eps"}),  # only avoids a division by 0
    }
)
_MASK = frozenset({"int8_mask"})
"""Only affects mergekit's internal storage of masks."""


def source_names(config: MergeConfig) -> dict[ModelReference, str]:
    """Returns the models' names in a recipe: `base`, and for experts the last part of their paths.

    If the configuration has no base and needs none, the first model without its adapter is the base.

    Raises:
        InputError: the base has an adapter, or an adapter is of another model than the base.
    """
    base = config.base or ModelReference(model=config.models[0].model)
    experts = [model for model in config.models if model != base]
    if config.base is None and config.method.base is not BaseRole.ORDINARY:
        raise _refusal(f"`{config.method.name}` without a base has no equivalent recipe", "`base_model`")
    if base.lora:
        raise _refusal(f"the base `{base}` is an adapter's model", "a plain model as `base_model`")
    names = {base: BASE}
    for expert in experts:
        if expert.lora and expert.model != base.model:
            raise _refusal(f"`{expert}` is an adapter of another model than the base", f"{base.model}+ADAPTER")
        stem = PurePath(expert.lora or expert.model).name.partition("@")[0]
        taken = set(names.values())
        unique = (f"{stem}{number}" for number in range(2, len(experts) + 3))
        names[expert] = stem if stem not in taken else next(name for name in unique if name not in taken)
    return names


def to_recipe(plan: MergePlan, names: Mapping[ModelReference, str], hashes: Mapping[str, str], dtype: str) -> Recipe:
    """Returns the plan as a recipe.

    Args:
        plan: The plan of the merge.
        names: From `source_names`.
        hashes: Source name -> content hash.
        dtype: The dtype of the base, for a configuration without one.

    Raises:
        InputError: a recipe cannot express the merge; the message names the reason.
    """
    config = plan.config
    _check_config(config)
    operator = _OPERATORS.get(config.method.name, config.method.name)
    rules: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for tensor in plan.tensors:
        params = _params(tensor, plan, names, OPERATOR_SPECS[operator])
        rules.setdefault(canonical_json(params), ([], params))[0].append(tensor.name)
    return parse_recipe(
        {
            "schema": RECIPE_SCHEMA,
            "base": BASE,
            "sources": {name: hashes[name] for name in names.values()},
            "rules": [
                {"match": names_pattern(matched), "operator": operator, "params": params}
                for matched, params in rules.values()
            ],
            "dtype": _dtype(config, dtype),
        },
        where="the recipe of the configuration",
    )


def _check_config(config: MergeConfig) -> None:
    tokenizer = config.tokenizer
    if tokenizer is not None and (tokenizer.tokens or tokenizer.pad_to_multiple_of > 1):
        raise _refusal("a recipe takes the base's embedding rows as they are", "no `tokens`, no `pad_to_multiple_of`")
    if tokenizer is not None and tokenizer.source not in ("base", "union", config.models[0]):
        raise _refusal("a recipe takes the base's vocabulary", "tokenizer_source: base", str(tokenizer.source))
    if config.chat_template is not None:
        raise _refusal("a recipe takes the base's chat template", "no `chat_template`")


def _dtype(config: MergeConfig, stored: str) -> str:
    dtype = config.out_dtype or config.dtype or stored
    if dtype not in DTYPES:
        raise _refusal(f"a recipe cannot be computed in {dtype}", any_of(DTYPES), dtype)
    return dtype


def _params(
    tensor: OutputTensor, plan: MergePlan, names: Mapping[ModelReference, str], spec: OperatorSpec
) -> dict[str, Any]:
    """Returns the parameters of one tensor's rule."""
    method, models = plan.config.method, [one.model for one in tensor.inputs]
    for one in tensor.inputs:
        if one.tensor != tensor.name:
            raise _refusal(
                f"`{tensor.name}` is made from another layer: a recipe does not stack layers",
                "every layer in its own place",
                f"`{one.tensor}` of `{one.model}`",
            )
    if method.name == "passthrough":
        scale = tensor.inputs[0].parameters.get("scale", 1.0)
        return {"source": names[models[0]], "scale": scale}
    if spec.param("weight") is None and set(models) != set(names):
        raise _refusal(
            f"`{tensor.name}` is made from only some of the models, and {method.name} has no weights",
            f"all models in every slice: {any_of(names)}",
            any_of(models),
        )
    params: dict[str, Any] = dict(_shapes(method.name, tensor))
    absent = {names[model]: 0.0 for model in names if model not in models and model != tensor.base}
    if method.parameter("weight") is None and spec.param("weight") is not None:
        params["weight"] = {names[model]: 1.0 for model in models} | absent
    for name, value in tensor.parameters.items():
        if _matters(name, value, plan, spec):
            params[_NAMES.get(name, name)] = value
    for parameter in method.parameters:
        if parameter.scope is not Scope.GLOBAL:
            is_per_source = {
                names[one.model]: one.parameters[parameter.name] for one in _having(tensor, parameter.name)
            }
            if any(_matters(parameter.name, value, plan, spec) for value in is_per_source.values()):
                params[parameter.name] = is_per_source | (absent if parameter.name == "weight" else {})
    return params


def _having(tensor: OutputTensor, name: str) -> Iterator[Any]:
    return (one for one in tensor.inputs if name in one.parameters)


def _matters(name: str, value: Any, plan: MergePlan, spec: OperatorSpec) -> bool:
    """Returns whether a rule needs the parameter: not if it has no effect, or is our operator's only behaviour."""
    method = plan.config.method
    if name in _NO_EFFECT.get(method.name, _MASK) or name in _SHAPES.get(method.name, ()):
        return False
    if spec.param(_NAMES.get(name, name)) is not None:
        return True
    parameter = method.parameter(name)
    assert parameter is not None, f"the plan has only the parameters of {method.name}"
    if value == parameter.default:
        return False
    raise _refusal(f"our `{spec.name}` has no `{name}`", f"{name}: {parameter.default}", f"{name}: {value}")


_SHAPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"nuslerp": ("nuslerp_flatten", "nuslerp_row_wise"), "model_stock": ("filter_wise",)}
)
"""Parameters that define which part of a tensor is a vector; our operators have `along` instead."""


def _shapes(method: str, tensor: OutputTensor) -> Iterator[tuple[str, str]]:
    given = tensor.parameters
    if method == "model_stock":
        yield "along", "rows" if given["filter_wise"] else "tensor"
    if method == "nuslerp":
        yield "along", "tensor" if given["nuslerp_flatten"] else "columns" if given["nuslerp_row_wise"] else "rows"


def _refusal(problem: str, expected: str, got: str = "") -> InputError:
    return InputError(problem, expected=expected, got=got, fix="use mergekit's own arithmetic: --numerics mergekit")
