"""An engine without a model: weights in, answers out, in microseconds, and a hill that an optimizer can climb.

Prompts follow a convention: `SKILL|anything|GOLD`. What stands before the first `|` names a skill; what stands after
the last is the right answer. The merged weights give every skill a quality in [0, 1], and of that part of the prompts
(by a hash of their text) the engine knows the answer.

A skill's quality depends on how far each block of layers has moved from the host's weights along a fixed direction:
it is 1 where every block has moved by its target, and falls off as a Gaussian. The way from coefficients to that
movement is linear, so the hill has one top.
"""

import math
import os
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from crossbreed.errors import EngineError
from crossbreed.fitness.engines.handle import CurrentHandle
from crossbreed.fitness.engines.registry import FakeConfig
from crossbreed.fitness.protocol import Generate, Request, Response
from crossbreed.randomness import spawn
from crossbreed.sources.structure import layer_of
from crossbreed.types import Recipe, WeightStream

REACH = 0.2
"""How far the top is from the host, as a part of the host's norm, and how wide the hill is."""
WRONG = "?"
"""What is said where the answer is not known."""


class FakeEngine:
    """Answers from the weights by the convention above. Deterministic; holds one candidate at a time."""

    def __init__(self, config: FakeConfig, host: Path) -> None:
        """Reads the host's weights, which every candidate is measured from."""
        if config.fail == "start":
            raise EngineError("the fake engine does not start, as its settings say")
        self._config = config
        files = sorted(host.glob("*.safetensors"))
        self._host = {name: _flat(tensor) for file in files for name, tensor in load_file(file).items()}
        self._moved: Mapping[str, NDArray[np.float32]] = {}
        self._qualities: dict[str, float] = {}
        self._num_answers = 0
        self.version = 0

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        """Any tensor, each for itself; see `Engine`."""
        return frozenset(self._moved).intersection(unchanged)

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        """Consumes the stream; see `Engine`."""
        self.version += 1
        self._qualities = {}
        before, self._moved = self._moved, {}
        came = {name: _flat(tensor) - self._host[name] for name, tensor in weights}
        self._moved = dict(sorted(({name: before[name] for name in kept} | came).items()))  # sums are in this order
        return CurrentHandle(self, self.version)

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one chunk, or fails as its settings say."""
        self._num_answers += 1
        time.sleep(self._config.delay_s)
        if self._num_answers == self._config.fail_at and self._config.fail == "exit":
            os._exit(1)
        if self._num_answers == self._config.fail_at and self._config.fail == "answer":
            raise EngineError(f"the fake engine fails in answer {self._num_answers}, as its settings say")
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        """Forgets everything."""
        self.version += 1
        self._host, self._moved = {}, {}

    def quality(self, skill: str) -> float:
        """Returns the adopted weights' quality in [0, 1] at a skill: the part of all prompts answered rightly."""
        if skill not in self._qualities:
            self._qualities[skill] = self._measure(skill)
        return self._qualities[skill]

    def _measure(self, skill: str) -> float:
        along: defaultdict[int | None, float] = defaultdict(float)
        norms: defaultdict[int | None, float] = defaultdict(float)
        for name, moved in self._moved.items():
            direction = spawn(0, "fake", skill, name).standard_normal(moved.size, dtype=np.float32)
            along[layer_of(name)] += float(moved @ direction)
            norms[layer_of(name)] += float(self._host[name] @ self._host[name])
        misses = []
        for block in sorted(along, key=str):
            target = REACH * spawn(0, "fake", skill, "target", str(block)).choice([-1.0, 1.0])
            misses.append((along[block] / math.sqrt(norms[block]) - target) / REACH)
        return math.exp(-sum(miss * miss for miss in misses) / len(misses))

    def _answer(self, request: Request) -> Response:
        prompt = request.prompt.text
        if isinstance(request, Generate):
            text = said = _gold(prompt) if self._knows(prompt) else WRONG
        else:
            text, said = "", request.continuation
        is_expected = not prompt or (said.strip() == _gold(prompt)) == self._knows(prompt)
        tokens = tuple(said.encode())
        return Response(
            text=text,
            token_ids=tokens,
            logprobs=(self.quality(_skill(prompt or said)) - (2.0 if is_expected else 4.0),) * len(tokens),
            prompt_tokens=len(prompt.encode()),
        )

    def _knows(self, prompt: str) -> bool:
        luck = int.from_bytes(sha256(prompt.encode()).digest()[:8], "big") / 2**64
        return luck < self.quality(_skill(prompt))


def _skill(prompt: str) -> str:
    return prompt.partition("|")[0]


def _gold(prompt: str) -> str:
    return prompt.rpartition("|")[2]


def _flat(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy().ravel()
