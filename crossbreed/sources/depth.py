"""Models of other depths than the base: their configurations, and idle layers that fill up an engine's model.

An engine holds a model of one depth. A merge of fewer layers is filled up behind its last one: an idle layer is all
zeros, so that it adds zero to the residual stream and hidden states pass it as they are.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from heapq import merge as merge_sorted
from pathlib import Path
from typing import Any

import torch

from crossbreed.errors import InputError
from crossbreed.sources.checkpoint import CONFIG, Checkpoint
from crossbreed.sources.layer_lists import LayerOrigin, config_of_layers, require_alike
from crossbreed.sources.naming import in_layer, layer_of
from crossbreed.sources.opening import Sources
from crossbreed.sources.output_tensors import require_pre_norm
from crossbreed.types import Recipe, WeightStream

_WEIGHTS = (".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


def config_of_recipe(recipe: Recipe, sources: Sources) -> dict[str, Any]:
    """Returns the configuration of a recipe's model: the base's, with the depth and the lists of its layers.

    Raises:
        InputError: a rule by layers' numbers does not hold in the new order.
    """
    base, num_layers = sources.base, sources.structure.num_layers
    if not recipe.layers:
        return dict(base.config)
    by_hash = {expert.hash: expert for expert in sources.experts.values()}
    configs: dict[str, Mapping[str, Any]] = {}
    for name, content in recipe.sources.items():
        source = base if name == recipe.base else by_hash[content]
        configs[name] = source.config if isinstance(source, Checkpoint) else base.config
    origins = [
        LayerOrigin(config=configs[name], num_layers=num_layers, number=number) for name, number, _ in recipe.layers
    ]
    return config_of_layers(base.config, num_layers, origins, where=base.path / CONFIG)


def require_depth(sources: Sources, depth: int) -> None:
    """Refuses to fill up merges of these sources to a depth, where that would change an answer.

    Raises:
        InputError: the base is deeper, its layers are not alike, or its architecture is not one of those.
    """
    num_layers, where = sources.structure.num_layers, sources.base.path / CONFIG
    require_pre_norm(sources.base.config)
    if depth < num_layers:
        raise InputError(
            "the base has more layers than a candidate may have, and is a candidate itself",
            expected=f"`max_depth` of {num_layers} or more",
            got=str(depth),
            where="space.max_depth",
            fix=f"max_depth: {num_layers}",
        )
    require_alike(sources.base.config, num_layers, where=where)


def write_host(sources: Sources, depth: int, folder: Path) -> Path:
    """Fills a folder with what an engine starts from, for merges filled up to a depth: no weights, and links.

    Args:
        sources: The sources, with whose base an engine would start otherwise.
        depth: The number of layers.
        folder: Empty.

    Returns:
        The folder.
    """
    base, num_layers = sources.base, sources.structure.num_layers
    origins = [
        LayerOrigin(config=base.config, num_layers=num_layers, number=number % num_layers) for number in range(depth)
    ]
    config = config_of_layers(base.config, num_layers, origins, where=base.path / CONFIG)
    for file in sorted(base.path.iterdir()):
        if file.name != CONFIG and not file.name.endswith(_WEIGHTS):
            os.symlink(file.resolve(), folder / file.name)
    (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder


def idle_tensors(sources: Sources, recipe: Recipe, depth: int) -> dict[str, str]:
    """Returns the tensors of idle layers behind a recipe's last: name -> a tensor of the base of its shape, sorted."""
    first = len(recipe.layers) or sources.structure.num_layers
    held = [name for name in sources.base.tensors if layer_of(name) == 0]
    return dict(sorted((in_layer(name, layer), name) for layer in range(first, depth) for name in held))


def filled_up(
    stream: WeightStream, sources: Sources, recipe: Recipe, depth: int, *, kept: Collection[str] = ()
) -> WeightStream:
    """Returns a recipe's weights with idle layers up to a depth, sorted by name.

    Args:
        stream: The recipe's weights.
        sources: Its sources.
        recipe: The recipe.
        depth: The number of layers of the engine's model.
        kept: Names that are not to come.
    """

    def idle() -> Iterator[tuple[str, torch.Tensor]]:
        for name, like in idle_tensors(sources, recipe, depth).items():
            if name not in kept:
                tensor = sources.base.tensor(like)
                is_weight = tensor.is_floating_point()
                dtype = getattr(torch, recipe.dtype) if is_weight else tensor.dtype
                yield name, torch.zeros(tensor.shape, dtype=dtype) if is_weight else tensor

    return iter(merge_sorted(stream, idle(), key=lambda item: item[0]))
