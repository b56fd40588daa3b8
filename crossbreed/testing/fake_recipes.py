"""An engine that takes recipes, as one behind a service does: answers depend on the coefficients alone.

Its sources are called `fake/NAME` and do not exist. It reads `weight`, `scale` and `lines_alpha` of a rule. A skill's
quality is 1 where every expert's weight equals the skill's target in every layer, and falls off as a Gaussian: one
hill, whose top `optimum` returns. Targets lie between 0.2 and 0.8 and differ by skill and expert, so that skills
compete. `fake_answers` says how prompts name a skill and how its quality decides answers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from statistics import fmean
from typing import Annotated, Literal

from pydantic import Field

from crossbreed.errors import InputError
from crossbreed.fitness.engines.registry import EnginePart, RecipeEngineConfig
from crossbreed.fitness.requests import Request, Response
from crossbreed.randomness import spawn
from crossbreed.recipes import rule_finder
from crossbreed.sources.naming import layer_of
from crossbreed.sources.structure import Structure, TensorInfo
from crossbreed.testing.fake_answers import Failure, Faults, respond
from crossbreed.types import ParamValue, Recipe, canonical_json

REACH = 0.5
"""The distance of a weight from its target that costs a factor of e."""
_PREFIX = "fake/"


class FakeRecipesConfig(RecipeEngineConfig):
    """No model and no weights: see `crossbreed.testing.fake_recipes`. For tests of engines that take recipes."""

    kind: Literal["fake_recipes"]
    layers: Annotated[int, Field(ge=1)] = 4
    """Number of layers of the simulated models."""
    vouches: bool = True
    """Whether it reports a fingerprint of its weights."""
    delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Time that it takes to answer a chunk."""
    fail: Failure | None = None
    """Fail when started, fail in the `fail_at`-th answer of an engine, or end the process there."""
    fail_at: Annotated[int, Field(ge=1)] = 1
    """Number of the answer that fails, counted from 1."""

    def describe_sources(self, base: str, experts: Mapping[str, str]) -> Structure:
        """Returns the structure of a small model in which every expert changes all matrices."""
        tensors = _tensors(self.layers)
        matrices = frozenset(name for name, info in tensors.items() if len(info.shape) == 2)
        hashes = {name: _hash_of(source) for name, source in {"base": base, **experts}.items()}
        return Structure(tensors=tensors, touched=dict.fromkeys(experts, matrices), hashes=hashes, tied=True)


class FakeRecipeEngine:
    """Answers from the recipe. Deterministic; holds any number of candidates at a time."""

    def __init__(self, config: FakeRecipesConfig) -> None:
        self._config = config
        self._faults = Faults(delay_s=config.delay_s, fail=config.fail, fail_at=config.fail_at)

    def adopt(self, recipe: Recipe) -> "FakeRecipeHandle":
        """Reads the recipe."""
        weights = _weights(recipe, self._config.layers)
        by_hash = {name: {recipe.sources[e]: w for e, w in of.items()} for name, of in weights.items()}
        fingerprint = sha256(canonical_json(by_hash).encode()).hexdigest()[:32]
        return FakeRecipeHandle(weights, fingerprint if self._config.vouches else None, self._faults)

    def close(self) -> None:
        """Does nothing: no resource is held."""


@dataclass(frozen=True, slots=True)
class FakeRecipeHandle:
    """A candidate."""

    weights: Mapping[str, Mapping[str, float]]
    """Tensor -> expert -> how much of its delta."""
    fingerprint: str | None
    """Of the weights above."""
    faults: Faults

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one chunk, or fails as the engine's settings say."""
        self.faults.answering()
        quality = cache(self.quality)
        return [respond(request, quality) for request in requests]

    def quality(self, skill: str) -> float:
        """Returns the quality in [0, 1] at a skill: the share of prompts that are answered rightly."""
        layers: dict[int | None, list[Mapping[str, float]]] = {}
        for name, of_expert in self.weights.items():
            layers.setdefault(layer_of(name), []).append(of_expert)
        misses = [
            (fmean(weights[expert] for weights in tensors) - target) / REACH
            for tensors in layers.values()
            for expert, target in optimum(skill, tensors[0]).items()
        ]
        return math.exp(-fmean(miss * miss for miss in misses)) if misses else 1.0


def optimum(skill: str, experts: Mapping[str, object] | Sequence[str]) -> dict[str, float]:
    """Returns each expert's weight at the top of a skill's hill, where the quality is 1.

    >>> optimum("sums", ["french"])
    {'french': 0.6}
    """
    return {e: round(float(spawn(0, "fake_recipes", skill, e).uniform(0.2, 0.8)), 2) for e in experts}


PART = EnginePart(config=FakeRecipesConfig, takes="recipe", make=f"{__name__}:FakeRecipeEngine")


def _tensors(num_layers: int) -> dict[str, TensorInfo]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (64, 8), "model.norm.weight": (8,)}
    for layer in range(num_layers):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (8, 8)
        shapes[f"model.layers.{layer}.mlp.up_proj.weight"] = (16, 8)
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (8,)
    return {name: TensorInfo(shape=shape, dtype="bfloat16") for name, shape in sorted(shapes.items())}


def _weights(recipe: Recipe, num_layers: int) -> dict[str, dict[str, float]]:
    """Tensor -> expert -> weight, of the matrices."""
    rule_of, experts = rule_finder(recipe), [name for name in recipe.sources if name != recipe.base]
    found = {}
    for name, info in _tensors(num_layers).items():
        if len(info.shape) == 2:
            params = rule.params if (rule := rule_of(name)) else {}
            factors = ("weight", 0.0), ("scale", 1.0), ("lines_alpha", 1.0)
            found[name] = {e: math.prod(_number(params, key, e, usual) for key, usual in factors) for e in experts}
    return found


def _number(params: Mapping[str, ParamValue], name: str, expert: str, default: float) -> float:
    said = params.get(name, default)
    number = said.get(expert, default) if isinstance(said, Mapping) else said
    assert not isinstance(number, tuple), "weight and scale are one number"
    return float(number)


def _hash_of(source: str) -> str:
    if not source.startswith(_PREFIX):
        raise InputError(
            "the fake engine has no such source",
            expected=f"{_PREFIX}NAME",
            got=source,
            where="sources",
            fix=f"name its sources {_PREFIX}base, {_PREFIX}french, ...",
        )
    return sha256(source.encode()).hexdigest()[:32]
