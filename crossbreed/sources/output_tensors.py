"""The plan of a merge's tensors: which output tensor is made of which tensor of which source, and multiplied by what.

Kernels make the tensors of this plan, publishing lists them, and both write the configuration of its depth. Without
`layers`, a recipe's tensors are the base's, one by one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from crossbreed.errors import InputError
from crossbreed.parsing import any_of
from crossbreed.recipes.layers import output_factors
from crossbreed.sources.naming import count_layers, in_layer, layer_of, writes_residual
from crossbreed.types import Recipe

PRE_NORM = frozenset(
    {
        *("llama", "mistral", "ministral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "gemma"),
        *("phi", "phi3", "granite", "olmo", "stablelm", "starcoder2", "nemotron", "cohere"),
        *("gpt2", "gpt_bigcode", "gpt_neox", "gptj", "falcon"),
    }
)
"""Architectures (`model_type`) whose layers add to one residual stream what they compute of its norm."""
_OTHERWISE = MappingProxyType(
    {
        **dict.fromkeys(
            ("gemma2", "gemma3", "gemma3_text", "glm4"), "it norms what a layer adds to the residual stream once more"
        ),
        **dict.fromkeys(("olmo2", "olmo3", "exaone4"), "its layers read the residual stream without a norm"),
        **dict.fromkeys(("openai-gpt", "bert"), "it norms the residual stream itself after each layer"),
        **dict.fromkeys(("mamba", "mamba2", "rwkv", "jamba", "falcon_h1", "lfm2"), "it has layers with a state"),
    }
)
"""Why some are no such ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTensor:
    """A tensor of a merge."""

    name: str
    tensor: str
    """What it is made of: the name in the sources."""
    expert: str | None = None
    """The recipe's name of the source that it is taken from as it is; None: the base's tensor, with its rule."""
    factor: float = 1.0
    """What it is multiplied by, before it is rounded."""


def output_tensors(recipe: Recipe, names: Iterable[str], config: Mapping[str, Any]) -> dict[str, OutputTensor]:
    """Returns the tensors of a recipe by name, sorted.

    Args:
        recipe: The recipe.
        names: The base's tensors.
        config: The base's config.json.

    Raises:
        InputError: the recipe has `layers`, and the base lacks one, or its architecture has no scales.
    """
    if not recipe.layers:
        return {name: OutputTensor(name=name, tensor=name) for name in sorted(names)}
    names = tuple(names)
    if any(scale != 1 for *_, scale in recipe.layers):
        require_pre_norm(config)
    num_layers = count_layers(names)
    if drafts := [name for name in names if (layer_of(name) or 0) >= num_layers]:
        raise InputError(
            "the base has layers that draft further tokens, which belong to no place in a path",
            expected="a base without them",
            got=drafts[0],
            fix="leave `layers` out of the recipe",
        )
    if beyond := [number for _, number, _ in recipe.layers if number >= num_layers]:
        raise InputError(
            f"the recipe takes layer {beyond[0]}, which the base does not have",
            expected=f"layers from 0 to {num_layers - 1}",
            got=str(beyond[0]),
            where=f"recipe {recipe.id}, layers",
        )
    found = [*_outside(names), *_inside(recipe, names)]
    return {tensor.name: tensor for tensor in sorted(found, key=lambda tensor: tensor.name)}


def require_pre_norm(config: Mapping[str, Any]) -> None:
    """Refuses paths of layers for architectures in which a scale could not be folded, nor a layer be left idle.

    Raises:
        InputError: the architecture is another one, or is not known here.
    """
    kind = config.get("model_type")
    if kind not in PRE_NORM:
        why = _OTHERWISE.get(str(kind), "it is not known here whether its layers add to one residual stream")
        raise InputError(
            f"layers of models of the architecture `{kind}` can be neither scaled nor idle: {why}",
            expected=f"`model_type`: {any_of(sorted(PRE_NORM))}",
            got=str(kind),
            where="the base's config.json",
            fix="search over the base's own layers, `space: {kind: coefficients}`; in a recipe, write scales of 1",
        )


def _outside(names: Sequence[str]) -> Iterator[OutputTensor]:
    return (OutputTensor(name=name, tensor=name) for name in names if layer_of(name) is None)


def _inside(recipe: Recipe, names: Sequence[str]) -> Iterator[OutputTensor]:
    held: dict[int, list[str]] = {}
    for name in names:
        if (layer := layer_of(name)) is not None:
            held.setdefault(layer, []).append(name)
    factors = output_factors(recipe.layers)
    for place, ((source, number, _), factor) in enumerate(zip(recipe.layers, factors, strict=True)):
        for name in held[number]:
            yield OutputTensor(
                name=in_layer(name, place),
                tensor=name,
                expert=None if source == recipe.base else source,
                factor=factor if writes_residual(name) else 1.0,
            )
