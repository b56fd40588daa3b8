"""An engine without a model: answers depend on the merged weights, take microseconds and form a hill to climb.

The merged weights give every skill a quality in [0, 1]; `fake_answers` says how prompts name a skill and what becomes
of its quality. A skill's quality depends on how far each block of layers has moved from the host's weights along a
fixed direction: it is 1 where every block has moved by its target, and falls off as a Gaussian. That movement is linear
in the coefficients, so the hill has one top.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from crossbreed.errors import EngineError
from crossbreed.fitness.engines.handle import CurrentHandle
from crossbreed.fitness.engines.registry import FakeConfig
from crossbreed.fitness.requests import Request, Response
from crossbreed.randomness import spawn
from crossbreed.sources.naming import count_layers, in_layer, layer_of
from crossbreed.testing.fake_answers import Faults, respond
from crossbreed.types import Recipe, WeightStream

REACH = 0.2
"""How far the top is from the host, as a part of the host's norm, and how wide the hill is."""


class FakeEngine:
    """Answers from the weights by the convention above. Deterministic; holds one candidate at a time."""

    def __init__(self, config: FakeConfig, host: Path) -> None:
        """Reads the host's weights, from which every candidate's movement is measured."""
        self._faults = Faults(delay_s=config.delay_s, fail=config.fail, fail_at=config.fail_at)
        files = sorted(host.glob("*.safetensors"))
        self._host = {name: _flat(tensor) for file in files for name, tensor in load_file(file).items()}
        self._moved: Mapping[str, NDArray[np.float32]] = {}
        self._qualities: dict[str, float] = {}
        self.version = 0

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        """Returns all of them: any tensor can be kept; see `WeightEngine`."""
        return frozenset(self._moved).intersection(unchanged)

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        """Consumes the stream; see `WeightEngine`."""
        self.version += 1
        self._qualities = {}
        before, self._moved = self._moved, {}
        came = {name: self._movement(recipe, name, tensor) for name, tensor in weights}
        self._moved = dict(sorted(({name: before[name] for name in kept} | came).items()))  # sums are in this order
        return CurrentHandle(self, self.version)

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one chunk, or fails as the settings say."""
        self._faults.answering()
        return [respond(request, self.quality) for request in requests]

    def close(self) -> None:
        """Drops the weights."""
        self.version += 1
        self._host, self._moved = {}, {}

    def quality(self, skill: str) -> float:
        """Returns the adopted weights' quality in [0, 1] at a skill: the share of prompts that are answered rightly."""
        if skill not in self._qualities:
            self._qualities[skill] = self._measure(skill)
        return self._qualities[skill]

    def _movement(self, recipe: Recipe, name: str, tensor: torch.Tensor) -> NDArray[np.float32]:
        flat, own = _flat(tensor), self._of_host(name)
        if own is None or own.shape != flat.shape:
            raise EngineError(f"recipe {recipe.id}: the host has no `{name}` of shape {tuple(tensor.shape)}")
        return flat - own

    def _of_host(self, name: str) -> NDArray[np.float32] | None:
        """Returns the host's tensor; for layers beyond its last, those of its first follow."""
        if name not in self._host and (layer := layer_of(name)) is not None:
            name = in_layer(name, layer % max(1, count_layers(self._host)))
        return self._host.get(name)

    def _measure(self, skill: str) -> float:
        along: defaultdict[int | None, float] = defaultdict(float)
        norms: defaultdict[int | None, float] = defaultdict(float)
        for name, moved in self._moved.items():
            direction = spawn(0, "fake", skill, name).standard_normal(moved.size, dtype=np.float32)
            along[layer_of(name)] += float(moved @ direction)
            own = self._of_host(name)
            assert own is not None, "it was compared with the host's"
            norms[layer_of(name)] += float(own @ own)
        misses = []
        for block in sorted(along, key=str):
            target = REACH * spawn(0, "fake", skill, "target", str(block)).choice([-1.0, 1.0])
            misses.append((along[block] / math.sqrt(norms[block]) - target) / REACH)
        return math.exp(-sum(miss * miss for miss in misses) / len(misses))


def _flat(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy().ravel()
