"""The canary against engines that are wrong in the ways that real ones have been."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crossbreed.errors import SwapError
from crossbreed.fitness import FakeConfig, Generate, Loglikelihood, Prompt, Request, Response, check_swap
from crossbreed.fitness.engines.handle import CurrentHandle
from crossbreed.sources.naming import ModuleType, layer_of, module_of
from crossbreed.testing.fakes import FakeEngine
from crossbreed.types import Recipe, WeightStream

BASE, EXPERT = (Recipe(base="base", sources={"base": name}, rules=()) for name in ("hash-base", "hash-expert"))
REQUESTS = [Generate(prompt=Prompt(text=f"sums|{i} + {i}|{2 * i}"), max_tokens=4) for i in range(8)]


class CachingEngine(FakeEngine):
    """Remembers answers to long prompts over a swap, as a prefix cache does that nobody resets."""

    def __init__(self, config: FakeConfig, host: Path) -> None:
        super().__init__(config, host)
        self.cache: dict[Request, Response] = {}

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        return [self._remembered(request) for request in requests]

    def _remembered(self, request: Request) -> Response:
        [response] = super().answer([request])
        if isinstance(request, Loglikelihood) or not request.use_cache:
            return response
        return self.cache.setdefault(request, response)


class DeafEngine(FakeEngine):
    """Keeps its first weights."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        first = dict(self._moved)
        handle = super().adopt(recipe, weights, kept=kept)
        self._moved = first or self._moved
        return handle


class DriftingEngine(FakeEngine):
    """Adds to its weights where it should replace them."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        before = dict(self._moved)
        handle = super().adopt(recipe, weights, kept=kept)
        self._moved = {name: moved + before.get(name, 0) for name, moved in self._moved.items()}
        return handle


class TiedHeadEngine(FakeEngine):
    """Never looks at the embedding again, as a packed lm_head that is tied to it."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        return super().adopt(recipe, ((name, tensor) for name, tensor in weights if "embed" not in name), kept=kept)


def module(name: str) -> tuple[int | None, ModuleType]:
    return layer_of(name), module_of(name)


class FusingEngine(FakeEngine):
    """Fuses a layer's attention, and its MLP: the parts that do not come with others hold whatever was in memory."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        handle = super().adopt(recipe, weights, kept=kept)
        came = {module(name) for name in self._moved.keys() - kept}
        torn = {name for name in kept if module(name) in came}
        self._moved = {name: moved + (name in torn) for name, moved in self._moved.items()}
        return handle


class CarefulEngine(FusingEngine):
    """Wants whole modules, as it must."""

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        changing = {module(name) for name in self._moved.keys() - unchanged}
        return frozenset(name for name in self._moved if module(name) not in changing)


class CertainEngine(FakeEngine):
    """Is certain of one answer, whatever its weights."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        return [replace(response, logprobs=(0.0,), token_ids=(1,), text="") for response in super().answer(requests)]


class NeedyEngine(FakeEngine):
    """Wants everything, always."""

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        return frozenset()


@pytest.fixture
def folders(toy_base: Path, toy_experts: dict[str, Path]) -> dict[str, Path]:
    return {BASE.id: toy_base, EXPERT.id: toy_experts["everything"]}


def run_canary(kind: type[FakeEngine], folders: dict[str, Path], other: Recipe = EXPERT) -> tuple[str, ...]:
    def stream(recipe: Recipe) -> WeightStream:
        return iter(sorted(load_file(folders[recipe.id] / "model.safetensors").items()))

    return check_swap(kind(FakeConfig(kind="fake"), folders[BASE.id]), BASE, other, stream, REQUESTS)


@pytest.mark.parametrize("kind", [FakeEngine, CarefulEngine, NeedyEngine])
def test_an_honest_engine_passes(folders: dict[str, Path], kind: type[FakeEngine]) -> None:
    run_canary(kind, folders)


def test_answers_that_no_merge_can_change_are_no_fault_of_the_engine(folders: dict[str, Path]) -> None:
    [note] = run_canary(CertainEngine, folders)
    assert note.startswith("no signal")


def test_two_recipes_of_the_same_weights_may_answer_alike(folders: dict[str, Path]) -> None:
    twin = replace(BASE, sources={"base": "hash-twin"})
    run_canary(FakeEngine, {**folders, twin.id: folders[BASE.id]}, other=twin)


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        (CachingEngine, "still uses the prefix cache"),
        (DeafEngine, "two different merges give the same answers"),
        (DriftingEngine, "the same weights, adopted again, give different answers"),
        (TiedHeadEngine, "a change of the output head does not affect"),
        (FusingEngine, "sending only the changed tensors gives other answers than sending all"),
    ],
)
def test_what_is_wrong_is_named(folders: dict[str, Path], kind: type[FakeEngine], seen: str) -> None:
    with pytest.raises(SwapError, match=seen) as caught:
        run_canary(kind, folders)
    assert "do not trust scores of this engine" in str(caught.value)


def test_only_rows_of_rare_tokens_change_in_the_other_head() -> None:
    from crossbreed.fitness.canary import _with_other_head

    before = {"model.embed_tokens.weight": torch.randn(32, 4), "model.norm.weight": torch.ones(4)}
    after = dict(_with_other_head(iter(before.items())))
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"])
    assert torch.equal(after["model.embed_tokens.weight"][:-8], before["model.embed_tokens.weight"][:-8])
    assert not torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
