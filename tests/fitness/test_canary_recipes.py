"""The canary against engines of recipes that are wrong in the ways that services can be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from crossbreed.errors import SwapError
from crossbreed.fitness import Generate, Prompt, Request, Response, check_recipes
from crossbreed.testing.fake_recipes import FakeRecipeEngine, FakeRecipeHandle, FakeRecipesConfig
from crossbreed.types import Recipe, Rule

CONFIG = FakeRecipesConfig(kind="fake_recipes")
HASHES = CONFIG.describe_sources("fake/base", {"one": "fake/one"}).hashes
BASE = Recipe(base="base", sources=HASHES, rules=())
MERGED = replace(BASE, rules=(Rule(match=".*", operator="task_arithmetic", params={"weight": 0.5}),))
REQUESTS = [Generate(prompt=Prompt(text=f"sums|{i} + {i}|{2 * i}"), max_tokens=4) for i in range(8)]


class StubbornEngine(FakeRecipeEngine):
    """Keeps its first recipe."""

    def adopt(self, recipe: Recipe) -> FakeRecipeHandle:
        self._first = getattr(self, "_first", recipe)
        return super().adopt(self._first)


class LyingEngine(StubbornEngine):
    """Says that it does not."""

    def adopt(self, recipe: Recipe) -> FakeRecipeHandle:
        return replace(super().adopt(recipe), fingerprint=FakeRecipeEngine(CONFIG).adopt(recipe).fingerprint)


class ForgetfulEngine(FakeRecipeEngine):
    """Adds a little to every recipe that comes."""

    drift = 0.0

    def adopt(self, recipe: Recipe) -> FakeRecipeHandle:
        self.drift += 0.02
        handle = super().adopt(recipe)
        moved = {name: {e: w + self.drift for e, w in of.items()} for name, of in handle.weights.items()}
        return replace(handle, weights=moved)


class RenamingEngine(FakeRecipeEngine):
    """Answers rightly, and calls the same weights otherwise every time."""

    number = 0

    def adopt(self, recipe: Recipe) -> FakeRecipeHandle:
        self.number += 1
        return replace(super().adopt(recipe), fingerprint=f"{self.number:032x}")


class OneNameEngine(FakeRecipeEngine):
    """Answers rightly, and has one fingerprint for all weights."""

    def adopt(self, recipe: Recipe) -> FakeRecipeHandle:
        return replace(super().adopt(recipe), fingerprint="0" * 32)


@dataclass(frozen=True, slots=True)
class CachingHandle:
    """Answers with what is remembered of long prompts, unless it is told not to."""

    inner: FakeRecipeHandle
    cache: dict[Request, Response]

    @property
    def fingerprint(self) -> str | None:
        return self.inner.fingerprint

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        found = self.inner.answer(requests)
        return [
            self.cache.setdefault(request, response)
            if isinstance(request, Generate) and request.use_cache
            else response
            for request, response in zip(requests, found, strict=True)
        ]


class CachingEngine(FakeRecipeEngine):
    cache: dict[Request, Response]

    def adopt(self, recipe: Recipe) -> CachingHandle:  # type: ignore[override]
        self.cache = getattr(self, "cache", {})
        return CachingHandle(super().adopt(recipe), self.cache)


class Textual(FakeRecipeHandle):
    """Gives texts and no log-probabilities."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        return [replace(response, logprobs=()) for response in FakeRecipeHandle.answer(self, requests)]


class TextualEngine(FakeRecipeEngine):
    def adopt(self, recipe: Recipe) -> FakeRecipeHandle:
        handle = super().adopt(recipe)
        return Textual(handle.weights, handle.fingerprint, handle.faults)


@pytest.mark.parametrize("vouches", [True, False])
def test_an_honest_engine_passes(vouches: bool) -> None:
    check_recipes(FakeRecipeEngine(CONFIG.model_copy(update={"vouches": vouches})), BASE, MERGED, REQUESTS)


def test_texts_alone_may_agree() -> None:
    alike = replace(BASE, rules=(Rule(match=".*", operator="task_arithmetic", params={"weight": 0.001}),))
    check_recipes(TextualEngine(CONFIG), BASE, alike, REQUESTS)


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        (StubbornEngine, "two different recipes give the same answers"),
        (LyingEngine, "two different recipes give the same answers"),
        (ForgetfulEngine, "the same recipe, adopted again, gives different answers"),
        (RenamingEngine, "the same recipe, adopted again, has fingerprint"),
        (OneNameEngine, "two different recipes have the same fingerprint"),
        (CachingEngine, "still uses the prefix cache"),
    ],
)
def test_what_is_wrong_is_named(kind: type[FakeRecipeEngine], seen: str) -> None:
    with pytest.raises(SwapError, match=seen) as caught:
        check_recipes(kind(CONFIG), BASE, MERGED, REQUESTS)
    assert "report it, with engine and version" in str(caught.value)
