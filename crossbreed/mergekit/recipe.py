"""Converts a mergekit configuration to a recipe, computed in fp32 and rounded once; errors name what a recipe lacks.

Its experts are fine-tunes of one base, and it uses the base's vocabulary. Layers of single models may be stacked
(`stacking`); where several are merged, each tensor keeps its place.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Self

from crossbreed.errors import InputError
from crossbreed.mergekit.config import Conditional, MergeConfig, ModelReference
from crossbreed.mergekit.methods import BaseRole, Scope
from crossbreed.mergekit.patterns import patterns_of
from crossbreed.mergekit.plan import MergePlan, OutputTensor, plan_merge
from crossbreed.mergekit.stacking import stacked_recipe
from crossbreed.parsing import any_of
from crossbreed.recipes import DTYPES, parse_recipe
from crossbreed.recipes.operators import OPERATOR_SPECS, OperatorSpec
from crossbreed.sources import Sources, open_sources
from crossbreed.sources.layer_lists import depth_of_config
from crossbreed.sources.naming import numbered_lists
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """What a recipe calls the models of a configuration."""

    base: ModelReference
    """A plain model, `base` in the recipe."""
    experts: Mapping[ModelReference, str]
    """The others; and the base a second time, where the method has no base and merges whole weights on a sphere."""

    @classmethod
    def of(cls, config: MergeConfig) -> Self:
        """Names experts after the last part of their paths.

        Without `base_model` at the top, the first slice's counts; where the method needs none, the first model without
        its adapter is the base.

        Raises:
            InputError: the base has an adapter, an adapter is of another model than the base, or a model is to have
                another architecture.
        """
        named = config.base or config.slices[0].base
        base = named or ModelReference(model=config.models[0].model)
        if base.lora:
            raise InputError(
                f"the base `{base}` is an adapter's model, and a recipe's base is a plain one",
                expected="a plain model as `base_model`",
                got=str(base),
                fix="write that model first, by merging {merge_method: passthrough, models: [{model: "
                f"{base}}}]}}, and name its folder as `base_model`; or use --numerics mergekit",
            )
        is_no_delta = named is None and config.method.base is BaseRole.OPTIONAL
        experts = [model for model in config.models if model != base or is_no_delta]
        taken, names = {BASE}, dict[ModelReference, str]()
        for expert in experts:
            if expert.lora and expert.model != base.model:
                raise _refusal(f"`{expert}` is an adapter of another model than the base", f"{base.model}+ADAPTER")
            stem = PurePath(expert.lora or expert.model).name.partition("@")[0]
            unique = (f"{stem}{number}" for number in range(2, len(experts) + 3))
            names[expert] = stem if stem not in taken else next(name for name in unique if name not in taken)
            taken.add(names[expert])
        if odd := next((model for model in config.models if model.architecture), None):
            raise _refusal("a recipe has the base's architecture", "no `override_architecture`", odd.architecture)
        return cls(base=base, experts=names)

    @property
    def names(self) -> Mapping[ModelReference, str]:
        """Name of every model of the configuration."""
        return {self.base: BASE, **self.experts}


def recipe_of(
    config: MergeConfig, open_: Callable[[str, Mapping[str, str]], Sources] = open_sources
) -> tuple[Recipe, Sources]:
    """Returns our recipe for a configuration, for merging in accurate numerics, and its sources.

    Raises:
        InputError: no recipe is equivalent, or a model is invalid.
    """
    naming = Naming.of(config)
    experts = {name: model.lora or model.model for model, name in naming.experts.items()}
    sources = open_(naming.base.model, experts)
    _check_gradients(config, sources)
    plan = plan_merge(config, dict.fromkeys(naming.names, sources.structure))
    is_in_place = [number for _, number in plan.layers] == list(range(sources.structure.num_layers))
    if config.method.name == "passthrough" and not is_in_place:
        _check_config(config)
        dtype = _dtype(config, sources.structure.dtype)
        return stacked_recipe(plan, naming.names, sources.structure.hashes, dtype), sources
    if len(plan.layers) != sources.structure.num_layers:
        raise InputError(
            "a recipe stacks layers of single models, and this merge has others than its base",
            expected=f"{sources.structure.num_layers} layers, as in the base, or `merge_method: passthrough`",
            got=str(len(plan.layers)),
            fix="merge it with `crossbreed merge FILE --numerics mergekit`, which stacks layers; the result may be the "
            "base or an expert of a recipe",
        )
    return to_recipe(plan, naming, sources.structure.hashes, sources.structure.dtype), sources


def _check_gradients(config: MergeConfig, sources: Sources) -> None:
    """Refuses gradients over the layers of a model whose layers are not found: each tensor would get the first value.

    Raises:
        InputError: it is such a one.
    """
    settings = [config.settings, *(entry.settings for entry in config.slices)]
    settings += [one.settings for entry in config.slices for one in entry.inputs]
    graded = next((name for one in settings for name, values in one.items() if any(map(_is_graded, values))), None)
    found, stated = sources.structure.num_layers, depth_of_config(sources.base.config)
    if graded is None or found == stated or (found and stated is None):
        return
    lists = ", ".join(f"{name} ({length})" for name, length in numbered_lists(sources.structure.tensors).items())
    raise InputError(
        f"`{graded}` has values over the layers, and the layers are not found by the names of the base's tensors",
        expected="layers" if stated is None else f"{stated} layers, as its configuration says",
        got=f"{found}; numbered lists: {lists or 'none'}",
        where=str(sources.base.path),
        fix=f"give `{graded}` one value, or one for each `filter` on tensors' names",
    )


def _is_graded(value: Conditional) -> bool:
    return len(set(value.anchors)) > 1


def to_recipe(plan: MergePlan, naming: Naming, hashes: Mapping[str, str], dtype: str) -> Recipe:
    """Returns the plan as a recipe.

    Args:
        plan: The plan of the merge.
        naming: The tensor names of its models.
        hashes: Source name -> content hash.
        dtype: The dtype of the base, for a configuration without one.

    Raises:
        InputError: a recipe cannot express the merge; the message names the reason.
    """
    config, names = plan.config, naming.names
    _check_config(config)
    operator = _OPERATORS.get(config.method.name, config.method.name)
    rules: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for tensor in plan.tensors:
        found = rule_params(tensor, plan, names, OPERATOR_SPECS[operator])
        rules.setdefault(canonical_json(found), ([], found))[0].append(tensor.name)
    params = [params for _, params in rules.values()]
    return parse_recipe(
        {
            "schema": RECIPE_SCHEMA,
            "base": BASE,
            "sources": {name: hashes[name] for name in (BASE, *naming.experts.values())},
            "rules": [
                {"match": match, "operator": operator, "params": params[number]}
                for number, match in patterns_of([matched for matched, _ in rules.values()])
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


def _dtype(config: MergeConfig, stored: str) -> str:
    dtype = config.out_dtype or config.dtype or stored
    if dtype not in DTYPES:
        raise _refusal(f"a recipe cannot be computed in {dtype}", any_of(DTYPES), dtype)
    return dtype


def rule_params(
    tensor: OutputTensor, plan: MergePlan, names: Mapping[ModelReference, str], spec: OperatorSpec
) -> dict[str, Any]:
    """Returns the parameters of one tensor's rule.

    Raises:
        InputError: a recipe cannot express what the plan has for it.
    """
    method, models = plan.config.method, [one.model for one in tensor.inputs]
    for one in tensor.inputs:
        if one.tensor != tensor.name:
            raise _refusal(
                f"`{tensor.name}` is made from another layer: a recipe does not stack layers",
                "every layer in its own place",
                f"`{one.tensor}` of `{one.model}`",
            )
    if tensor.base is not None and names[tensor.base] != BASE:
        raise _refusal("a recipe has one base", "one `base_model`", f"`{tensor.base}` as that of a slice")
    if method.name == "passthrough":
        scale = tensor.inputs[0].parameters.get("scale", 1.0)
        return {"source": names[models[0]], "scale": scale}
    if spec.param("weight") is None and not names.keys() <= {*models, tensor.base}:
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
            if parameter.name == "weight" and spec.param("normalize") is None and tensor.parameters.get("normalize"):
                is_per_source = _divided(is_per_source)
            if any(_matters(parameter.name, value, plan, spec) for value in is_per_source.values()):
                params[parameter.name] = is_per_source | (absent if parameter.name == "weight" else {})
    return params


def _divided(weights: Mapping[str, float]) -> dict[str, float]:
    """Returns weights divided by their sum; as they are if they cancel, as in mergekit."""
    total = math.fsum(weights.values())
    if abs(total) < 1e-8 or math.isclose(total, 1.0, rel_tol=1e-12):  # divided already, but for rounding
        return dict(weights)
    return {name: weight / total for name, weight in weights.items()}


def _having(tensor: OutputTensor, name: str) -> Iterator[Any]:
    return (one for one in tensor.inputs if name in one.parameters)


def _matters(name: str, value: Any, plan: MergePlan, spec: OperatorSpec) -> bool:
    """Returns whether a rule needs the parameter: not if it has no effect, or is our operator's only behaviour."""
    method = plan.config.method
    if name in _NO_EFFECT.get(method.name, _MASK) or name in _SHAPES.get(method.name, ()):
        return False
    if spec.param(_NAMES.get(name, name)) is not None:
        return True
    if name == "normalize" and spec.param("weight") is not None:
        return False  # the weights are divided by their sum
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
    if method in ("nuslerp", "multislerp"):
        yield "of", "weights" if tensor.base is None else "deltas"


def _refusal(problem: str, expected: str, got: str = "") -> InputError:
    return InputError(problem, expected=expected, got=got, fix="use mergekit's own arithmetic: --numerics mergekit")
