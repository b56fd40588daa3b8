"""Engines pass the conformance tests, and the tests catch faulty engines."""

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_process import EngineProcess
from token_prompts import AnswersTokens

from crossbreed.fitness import FakeConfig, Generate, Loglikelihood, Request, Response, TransformersConfig, VllmConfig
from crossbreed.fitness.engines import build_engine
from crossbreed.fitness.engines.handle import CurrentHandle
from crossbreed.fitness.protocol import WeightEngine
from crossbreed.testing.engines import (
    RECIPES,
    MakeWeightEngine,
    RecipeEngineConformance,
    RecipeExample,
    Subject,
    WeightEngineConformance,
)
from crossbreed.testing.fake_recipes import FakeRecipeEngine, FakeRecipeHandle, FakeRecipesConfig
from crossbreed.testing.fakes import FakeEngine
from crossbreed.testing.toys import load_weights, make_printable_pair
from crossbreed.types import Recipe, Rule, WeightStream

FAKE = FakeConfig(kind="fake")


class TestFakeEngine(WeightEngineConformance):
    @pytest.fixture
    def make(self) -> MakeWeightEngine:
        return lambda host: FakeEngine(FAKE, host)


class TestTransformers(AnswersTokens, WeightEngineConformance):
    @pytest.fixture
    def make(self) -> MakeWeightEngine:
        return lambda host: build_engine(TransformersConfig(kind="transformers"), host)


@pytest.mark.engine
class TestVllm(AnswersTokens, WeightEngineConformance):
    """Each engine has its own process. Most tests share one, since a start takes seconds."""

    @pytest.fixture
    def make(self) -> MakeWeightEngine:
        config = VllmConfig(kind="vllm", dtype="float32", kv_cache_gb=0.1, max_model_len=128)
        return lambda host: EngineProcess(config, host)

    @pytest.fixture(scope="module")
    @classmethod
    def shared(cls) -> Iterator[list[WeightEngine]]:
        engines: list[WeightEngine] = []
        yield engines
        for engine in engines:
            engine.close()

    @pytest.fixture
    def engine(self, make: MakeWeightEngine, host: Path, shared: list[WeightEngine]) -> WeightEngine:
        if not shared:
            shared.append(make(host))
        return shared[0]


SOURCES = {"base": "0", "x": "1", "y": "2"}


def example(make: Callable[[], Any]) -> RecipeExample:
    a, b = (
        Recipe(
            base="base",
            sources=SOURCES,
            rules=(Rule(match=".*", operator="task_arithmetic", params={"weight": weight}),),
        )
        for weight in (0.5, 0.3)
    )
    return RecipeExample(make=make, a=a, b=b)


class TestFakeRecipes(RecipeEngineConformance):
    @pytest.fixture
    def example(self) -> RecipeExample:
        return example(lambda: FakeRecipeEngine(FakeRecipesConfig(kind="fake_recipes")))


class TestFakeRecipesWithoutFingerprint(RecipeEngineConformance):
    @pytest.fixture
    def example(self) -> RecipeExample:
        return example(lambda: FakeRecipeEngine(FakeRecipesConfig(kind="fake_recipes", vouches=False)))


class _IgnoresLater(FakeEngine):
    """Ignores all candidates after the first."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        if self._moved:
            self.version += 1
            return CurrentHandle(self, self.version)
        return super().adopt(recipe, weights, kept=kept)


class _AddsUp(FakeEngine):
    """Adds a part of the previous candidate."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        before = dict(self._moved)
        handle = super().adopt(recipe, weights, kept=kept)
        self._moved = {name: moved + 0.1 * before.get(name, 0) for name, moved in self._moved.items()}
        return handle


class _CachesResponses(FakeEngine):
    """Caches responses across candidates."""

    def __init__(self, config: FakeConfig, host: Path) -> None:
        super().__init__(config, host)
        self._answers: dict[Request, Response] = {}

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        fresh = super().answer(requests)
        return [self._answers.setdefault(request, response) for request, response in zip(requests, fresh, strict=True)]


class _CachesByRecipe(FakeEngine):
    """Caches weights by recipe."""

    def __init__(self, config: FakeConfig, host: Path) -> None:
        super().__init__(config, host)
        self._loaded: dict[str, Any] = {}

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        handle = super().adopt(recipe, weights, kept=kept)
        self._moved = self._loaded.setdefault(recipe.id, self._moved)
        return handle


class _StopsEarly(FakeEngine):
    """Does not consume the stream to its end."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        return super().adopt(recipe, (next(weights) for _ in range(20)), kept=kept)


class _Drifts(FakeEngine):
    """Lowers log-probabilities with each call."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        self._offset = getattr(self, "_offset", 0.0) + 1e-3
        return [replace(r, logprobs=tuple(p - self._offset for p in r.logprobs)) for r in super().answer(requests)]


class _Sorts(FakeEngine):
    """Returns responses sorted by prompt length."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        return super().answer(sorted(requests, key=lambda request: len(request.prompt.text)))


class _KeepsUnknown(FakeEngine):
    """Keeps tensors that it does not hold."""

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        return frozenset(unchanged)


class _KeepsChanging(FakeEngine):
    """Keeps tensors that will change."""

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        return frozenset(self._moved)


class _LosesKept(FakeEngine):
    """Loses most of the kept tensors."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        handle = super().adopt(recipe, weights, kept=kept)
        if kept:
            self._moved = {name: moved for name, moved in self._moved.items() if name not in kept or "norm" in name}
        return handle


class _SwallowsErrors(FakeEngine):
    """Ignores exceptions of the stream."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        def safe() -> WeightStream:
            try:
                yield from weights
            except Exception:
                return

        return super().adopt(recipe, safe(), kept=kept)


class _KeepsAfterError(FakeEngine):
    """Keeps tensors of the last candidate after an exception."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        before = self._moved
        try:
            return super().adopt(recipe, weights, kept=kept)
        except Exception:
            self._moved = before
            raise


class _HidesNan(FakeEngine):
    """Replaces NaN by 0."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        return super().adopt(recipe, ((name, torch.nan_to_num(tensor)) for name, tensor in weights), kept=kept)


class _StaysNan(FakeEngine):
    """Returns NaN for ever after the first NaN."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        responses = super().answer(requests)
        self._has_nan = getattr(self, "_has_nan", False) or math.isnan(responses[0].logprobs[0])
        return [replace(r, logprobs=(math.nan,) * len(r.logprobs)) for r in responses] if self._has_nan else responses


class _SkipsTensors(FakeEngine):
    """Skips tensors that do not fit the model."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        known = ((n, t) for n, t in weights if n in self._host and t.numel() == self._host[n].size)
        return super().adopt(recipe, known, kept=kept)


class _OldHandles(FakeEngine):
    """Lets old handles use the current weights, also after closing."""

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        super().adopt(recipe, weights, kept=kept)
        self.version = 0
        return CurrentHandle(self, 0)

    def close(self) -> None:
        pass


class _NoLimits(FakeEngine):
    """Ignores stops and `max_tokens`."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        whole = [replace(r, max_tokens=99, stop=()) if isinstance(r, Generate) else r for r in requests]
        return super().answer(whole)


class _IncludesStop(FakeEngine):
    """Includes the stop in the text."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        return [
            replace(response, text=response.text + (*request.stop, "")[0] if isinstance(request, Generate) else "")
            for request, response in zip(requests, super().answer(requests), strict=True)
        ]


class _ScoresDifferently(FakeEngine):
    """Returns other log-probabilities when scoring than when generating."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        return [
            replace(response, logprobs=tuple(p - isinstance(request, Loglikelihood) for p in response.logprobs))
            for request, response in zip(requests, super().answer(requests), strict=True)
        ]


class _NotGreedy(FakeEngine):
    """Generates less likely tokens than it could."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        return [
            replace(response, logprobs=tuple(p - 9 * isinstance(request, Generate) for p in response.logprobs))
            for request, response in zip(requests, super().answer(requests), strict=True)
        ]


class _OmitsLast(FakeEngine):
    """Omits the last response."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        return super().answer(requests)[:-1]


SUITE = WeightEngineConformance
CAUGHT: list[tuple[type[FakeEngine], Callable[..., None]]] = [
    (_IgnoresLater, SUITE.test_a_candidate_adopted_again_responds_as_before),
    (_IgnoresLater, SUITE.test_the_stream_is_consumed_to_the_end),
    (_AddsUp, SUITE.test_a_candidate_adopted_again_responds_as_before),
    (_AddsUp, SUITE.test_a_used_engine_responds_as_a_new_one),
    (_CachesResponses, SUITE.test_a_candidate_adopted_again_responds_as_before),
    (_CachesResponses, SUITE.test_a_used_engine_responds_as_a_new_one),
    (_CachesByRecipe, SUITE.test_responses_depend_on_weights_and_not_on_the_recipe),
    (_StopsEarly, SUITE.test_the_stream_is_consumed_to_the_end),
    (_Drifts, SUITE.test_responses_do_not_depend_on_earlier_requests),
    (_Sorts, SUITE.test_responses_are_in_the_order_of_requests),
    (_KeepsUnknown, SUITE.test_only_tensors_of_the_last_candidate_are_kept),
    (_KeepsUnknown, SUITE.test_a_used_engine_responds_as_a_new_one),
    (_KeepsChanging, SUITE.test_kept_tensors_may_be_left_out_of_the_stream),
    (_KeepsChanging, SUITE.test_only_tensors_of_the_last_candidate_are_kept),
    (_LosesKept, SUITE.test_kept_tensors_may_be_left_out_of_the_stream),
    (_SwallowsErrors, SUITE.test_exceptions_of_the_stream_are_raised),
    (_KeepsAfterError, SUITE.test_exceptions_of_the_stream_are_raised),
    (_HidesNan, SUITE.test_nan_weights_are_reported_and_leave_no_trace),
    (_StaysNan, SUITE.test_nan_weights_are_reported_and_leave_no_trace),
    (_SkipsTensors, SUITE.test_tensors_of_another_model_are_refused),
    (_OldHandles, SUITE.test_an_old_handle_never_uses_new_weights),
    (_OldHandles, SUITE.test_handles_of_a_closed_engine_raise),
    (_NoLimits, SUITE.test_a_text_ends_before_its_stop),
    (_NoLimits, SUITE.test_max_tokens_limits_a_text),
    (_IncludesStop, SUITE.test_a_text_ends_before_its_stop),
    (_ScoresDifferently, SUITE.test_scoring_a_generated_text_gives_its_log_probabilities),
    (_NotGreedy, SUITE.test_greedy_generation_chooses_the_most_likely_token),
    (_Drifts, SUITE.test_sampling_is_determined_by_the_seed),
    (_OmitsLast, SUITE.test_each_request_has_a_complete_response),
]


def apply(law: Callable[..., None], kind: type[FakeEngine], folder: Path) -> None:
    """Runs one conformance test on an engine, with the values of its fixtures."""
    host, other = make_printable_pair(folder)
    weights = {"a": load_weights(host), "b": load_weights(other)}
    engine = kind(FAKE, host)
    given = {
        **weights,
        "make": lambda host: kind(FAKE, host),
        "host": host,
        "engine": engine,
        "subject": Subject(engine=engine, adopt=lambda name: engine.adopt(RECIPES[0], iter(weights[name].items()))),
        "part": "layers.1.",
        "position": 9,
        "limit": 2,
    }
    law(SUITE(), **{name: given[name] for name in inspect.signature(law).parameters if name != "self"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts") / "toy"


@pytest.mark.parametrize(("wrong", "law"), CAUGHT, ids=lambda value: value.__name__.removeprefix("test_"))
def test_a_faulty_engine_is_caught(wrong: type[FakeEngine], law: Callable[..., None], folder: Path) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception, KeyError)):
        apply(law, wrong, folder)


@pytest.mark.parametrize("law", sorted({law for _, law in CAUGHT}, key=lambda law: law.__name__))
def test_the_correct_engine_passes(law: Callable[..., None], folder: Path) -> None:
    apply(law, FakeEngine, folder)


class _FixedRecipe(FakeRecipeEngine):
    """Ignores all recipes after the first."""

    _first: FakeRecipeHandle | None = None

    def adopt(self, recipe: Recipe) -> FakeRecipeHandle:
        self._first = self._first or super().adopt(recipe)
        return self._first


class _DependsOnOrder(FakeRecipeEngine):
    """Depends on the order of the sources."""

    def adopt(self, recipe: Recipe) -> FakeRecipeHandle:
        name = next(iter(recipe.sources))
        rule = Rule(match=".*", operator="task_arithmetic", params={"weight": {name: 1.0}})
        return super().adopt(replace(recipe, rules=(*recipe.rules, rule) if name == "base" else (rule,)))


class _NumberedFingerprint(FakeRecipeEngine):
    """Returns the number of the adoption as the fingerprint."""

    _numbers = count()

    def adopt(self, recipe: Recipe) -> FakeRecipeHandle:
        return replace(super().adopt(recipe), fingerprint=f"{next(self._numbers)}")


class _ConstantFingerprint(FakeRecipeEngine):
    """Returns the same fingerprint for all recipes."""

    def adopt(self, recipe: Recipe) -> FakeRecipeHandle:
        return replace(super().adopt(recipe), fingerprint="our best model")


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        (_FixedRecipe, RecipeEngineConformance.test_a_candidate_adopted_again_responds_as_before),
        (_FixedRecipe, RecipeEngineConformance.test_a_used_engine_responds_as_a_new_one),
        (_FixedRecipe, RecipeEngineConformance.test_a_fingerprint_is_a_function_of_the_recipe),
        (_DependsOnOrder, RecipeEngineConformance.test_equal_recipes_have_equal_responses),
        (_NumberedFingerprint, RecipeEngineConformance.test_a_fingerprint_is_a_function_of_the_recipe),
        (_ConstantFingerprint, RecipeEngineConformance.test_a_fingerprint_is_a_function_of_the_recipe),
    ],
)
def test_a_faulty_recipe_engine_is_caught(wrong: type[FakeRecipeEngine], law: Callable[..., None]) -> None:
    shown = example(lambda: wrong(FakeRecipesConfig(kind="fake_recipes")))
    engine = shown.make()
    adopt = {"a": shown.a, "b": shown.b}
    subject = Subject(engine=engine, adopt=lambda name: engine.adopt(adopt[name]))
    given = {"engine": engine, "example": shown, "subject": subject}
    with pytest.raises(AssertionError):
        law(RecipeEngineConformance(), **{n: given[n] for n in inspect.signature(law).parameters if n != "self"})
