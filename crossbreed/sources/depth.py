"""Models of other depths than the base: their configurations, and idle layers that fill up an engine's model.

An engine holds a model of one depth. A merge of fewer layers is filled up: an idle layer is all zeros, so that it adds
zero to the residual stream, and hidden states pass it as they are. Idle layers stand in front, where only embeddings
pass them. Behind a layer they would round: fused kernels (vLLM's) add what a layer writes and norm the sum before it is
rounded to the engine's dtype, and a layer in between rounds it first.
"""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from crossbreed.errors import InputError
from crossbreed.sources.checkpoint import CONFIG, Checkpoint
from crossbreed.sources.layer_lists import LayerOrigin, config_of_layers, require_alike
from crossbreed.sources.naming import in_layer, layer_of
from crossbreed.sources.opening import Sources
from crossbreed.sources.output_tensors import require_pre_norm
from crossbreed.sources.structure import TensorInfo
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """A recipe's merge in an engine's model of some depth: idle layers first, then its own."""

    num_idle: int
    idle: Mapping[str, TensorInfo]
    """Name in the engine's model -> shape and dtype, of the tensors of idle layers."""

    def engine_name(self, name: str) -> str:
        """Returns what a tensor of the merge is called in the engine's model."""
        layer = layer_of(name)
        return name if layer is None or not self.num_idle else in_layer(name, layer + self.num_idle)

    def own_name(self, name: str) -> str:
        """Returns what a tensor of the engine's model is called in the merge, where it is none of an idle layer."""
        layer = layer_of(name)
        return name if layer is None or not self.num_idle else in_layer(name, layer - self.num_idle)

    def filled(self, stream: WeightStream, *, kept: Collection[str] = ()) -> WeightStream:
        """Returns a merge's weights under the names of the engine's model, those of idle layers first.

        Args:
            stream: The merge's weights.
            kept: Names in the engine's model that are not to come.
        """
        for name, info in self.idle.items():
            if name not in kept:
                yield name, torch.zeros(info.shape, dtype=getattr(torch, info.dtype))
        for name, tensor in stream:
            yield self.engine_name(name), tensor


def filling(recipe: Recipe, sources: Sources, depth: int) -> Filling:
    """Returns how a recipe's merge stands in a model of this depth."""
    num_idle = depth - (len(recipe.layers) or sources.structure.num_layers)
    assert num_idle >= 0, f"recipe {recipe.id} is deeper than the engine's model"
    idle: dict[str, TensorInfo] = {}
    for name, info in sources.structure.tensors.items():
        if layer_of(name) == 0:
            dtype = recipe.dtype if "float" in info.dtype else info.dtype
            idle |= {in_layer(name, layer): replace(info, dtype=dtype) for layer in range(num_idle)}
    return Filling(num_idle=num_idle, idle=idle)
