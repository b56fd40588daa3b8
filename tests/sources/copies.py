"""How these tests break a good model: copy it, edit one thing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file, save_file

Edit: TypeAlias = Callable[[dict[str, Any]], object]


class Copy:
    """A writable copy of a model folder."""

    def __init__(self, original: Path, path: Path) -> None:
        self.path = Path(shutil.copytree(original, path))
        self.weights = next(self.path.glob("*.safetensors"))

    def tensors(self, edit: Callable[[dict[str, torch.Tensor]], object]) -> "Copy":
        tensors = load_file(self.weights)
        edit(tensors)
        save_file(tensors, self.weights, metadata={"format": "pt"})
        return self

    def json(self, name: str, edit: Edit) -> "Copy":
        file = self.path / name
        value = json.loads(file.read_text())
        edit(value)
        file.write_text(json.dumps(value))
        return self

    def sharded(self, num_shards: int = 3) -> "Copy":
        """Deals the tensors out to shards, as a hub repository has them."""
        tensors = load_file(self.weights)
        self.weights.unlink()
        weight_map = {}
        for shard in range(num_shards):
            name = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
            held = {key: tensors[key] for key in sorted(tensors, reverse=True)[shard::num_shards]}
            save_file(held, self.path / name, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(held, name)
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (self.path / "model.safetensors.index.json").write_text(json.dumps(index))
        return self
