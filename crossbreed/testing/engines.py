"""Conformance tests for engines: responses depend on the adopted candidate and on nothing else.

Subclass `WeightEngineConformance` or `RecipeEngineConformance` in a test module and override its one fixture:

    class TestMine(WeightEngineConformance):
        @pytest.fixture
        def make(self) -> MakeWeightEngine:
            return lambda host: MyEngine(MyConfig(kind="mine"), host)
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import pytest

from crossbreed.errors import EngineError, InvalidWeights
from crossbreed.fitness.protocol import Engine, Handle, RecipeEngine, RecipeHandle, WeightEngine
from crossbreed.fitness.requests import Generate, Loglikelihood, Prompt, Request, Response
from crossbreed.types import Recipe, WeightStream

if TYPE_CHECKING:
    import torch

    Weights: TypeAlias = dict[str, torch.Tensor]
    """Tensor name -> tensor."""

MakeWeightEngine: TypeAlias = Callable[[Path], WeightEngine]
"""Starts an engine on a host folder: config, tokenizer and weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An engine and two candidates with different responses."""

    engine: Engine
    adopt: Callable[[str], Handle]
    """Adopts candidate "a" or "b"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeExample:
    """How to start an engine that takes recipes, and two recipes that it can merge."""

    make: Callable[[], RecipeEngine]
    a: Recipe
    b: Recipe
    """A recipe whose responses differ from those of `a`."""


class EngineConformance:
    """The requirements for both kinds of engine. Subclass one of the two suites below."""

    atol: ClassVar[float] = 0.0
    """Largest difference of log-probabilities between two runs of the same chunk. Texts must be equal."""
    likelihood_atol: ClassVar[float] = 1e-3
    """Largest difference of log-probabilities between generating a text and scoring it."""
    prompts: ClassVar[tuple[str, ...]] = tuple(
        f"{skill}|{prompt}"
        for skill in ("sums", "french", "red", "blue")
        for prompt in ("34 + 12|forty-six", "how old|seven-and-twenty")
    )
    """At least one must be continued by a text of three characters or more."""

    @property
    def requests(self) -> list[Request]:
        """A chunk with requests of both kinds."""
        prompts = [Prompt(text=text) for text in self.prompts]
        return [
            *(Generate(prompt=prompt, max_tokens=8) for prompt in prompts),
            *(Loglikelihood(prompt=prompt, continuation=" twelve or more") for prompt in prompts),
            Loglikelihood(prompt=Prompt(text=""), continuation="Once upon a time"),
        ]

    @pytest.fixture
    def subject(self) -> Iterator[Subject]:
        """An engine with two candidates. The subclasses define it."""
        raise NotImplementedError

    def test_a_candidate_adopted_again_responds_as_before(self, subject: Subject) -> None:
        """A, B, A, B: equal responses for equal candidates, different ones for A and B."""
        first = subject.adopt("a").answer(self.requests)
        other = subject.adopt("b").answer(self.requests)
        assert _gap(first, other) > self.atol, "A and B have equal responses"
        assert _gap(subject.adopt("a").answer(self.requests), first) <= self.atol
        assert _gap(subject.adopt("b").answer(self.requests), other) <= self.atol

    def test_each_request_has_a_complete_response(self, subject: Subject) -> None:
        """Tokens, a finite log-probability for each, and a text for a Generate only."""
        responses = subject.adopt("a").answer(self.requests)
        assert len(responses) == len(self.requests)
        for request, response in zip(self.requests, responses, strict=True):
            assert isinstance(response, Response)
            assert len(response.token_ids) == len(response.logprobs) > 0
            assert all(math.isfinite(logprob) and logprob <= 1e-6 for logprob in response.logprobs)
            assert response.prompt_tokens >= bool(request.prompt.text)
            if isinstance(request, Generate):
                assert len(response.token_ids) <= request.max_tokens
            else:
                assert response.text == ""

    def test_responses_do_not_depend_on_earlier_requests(self, subject: Subject) -> None:
        """Repeats a chunk after itself, after another chunk and without the cache."""
        handle = subject.adopt("a")
        first = handle.answer(self.requests)
        assert _gap(handle.answer(self.requests), first) <= self.atol
        handle.answer([Generate(prompt=Prompt(text=self.prompts[0] + " and"), max_tokens=3)])
        assert _gap(handle.answer(self.requests), first) <= self.atol
        anew = [replace(r, use_cache=False) if isinstance(r, Generate) else r for r in self.requests]
        assert _gap(handle.answer(anew), first) <= max(self.atol, self.likelihood_atol)

    def test_responses_are_in_the_order_of_requests(self, subject: Subject) -> None:
        """Reversing a chunk reverses its responses."""
        handle = subject.adopt("a")
        forwards = handle.answer(self.requests)
        backwards = handle.answer(self.requests[::-1])
        assert _gap(backwards[::-1], forwards) <= max(self.atol, self.likelihood_atol)

    def test_an_old_handle_never_uses_new_weights(self, subject: Subject) -> None:
        """It raises EngineError, or responds as before where the engine holds several candidates."""
        old = subject.adopt("a")
        first = old.answer(self.requests)
        subject.adopt("b")
        try:
            late = old.answer(self.requests)
        except EngineError:
            return
        assert _gap(late, first) <= self.atol

    def test_a_text_ends_before_its_stop(self, subject: Subject) -> None:
        """Before the stop that occurs first; a stop that does not occur changes nothing."""
        handle = subject.adopt("a")
        request, free = self._generated(handle)
        middle = next(i for i in range(1, len(free.text)) if free.text[i] not in free.text[:i])
        for stops in ((free.text[middle],), ("never said", free.text[middle:])):
            [stopped] = handle.answer([replace(request, stop=stops)])
            assert stopped.text == free.text[:middle]
            assert len(stopped.token_ids) == len(stopped.logprobs) > 0
        [unstopped] = handle.answer([replace(request, stop=("never said",))])
        assert _gap([unstopped], [free]) <= self.atol

    @pytest.mark.parametrize("limit", [1, 2])
    def test_max_tokens_limits_a_text(self, subject: Subject, limit: int) -> None:
        """To the first tokens of the text with a larger limit."""
        handle = subject.adopt("a")
        request, free = self._generated(handle)
        [cut] = handle.answer([replace(request, max_tokens=limit)])
        assert cut.token_ids == free.token_ids[:limit]
        assert len(cut.logprobs) == limit
        assert free.text.startswith(cut.text)

    def test_scoring_a_generated_text_gives_its_log_probabilities(self, subject: Subject) -> None:
        """Up to `likelihood_atol`, for texts that are tokenized as they were generated."""
        handle = subject.adopt("a")
        num_compared = 0
        for prompt in (Prompt(text=text) for text in self.prompts):
            [free] = handle.answer([Generate(prompt=prompt, max_tokens=24)])
            [scored] = handle.answer([Loglikelihood(prompt=prompt, continuation=free.text)])
            if scored.token_ids == free.token_ids[: len(scored.token_ids)]:
                num_compared += 1
                gaps = [abs(p - q) for p, q in zip(scored.logprobs, free.logprobs, strict=False)]
                assert max(gaps) <= self.likelihood_atol
        assert num_compared, "every text is tokenized differently when it is scored: override `prompts`"

    def test_greedy_generation_chooses_the_most_likely_token(self, subject: Subject) -> None:
        """No other single-token continuation is more likely than the first generated token."""
        handle = subject.adopt("a")
        request, free = self._generated(handle)
        others = [Loglikelihood(prompt=request.prompt, continuation=character) for character in "aeintxyz?07"]
        for other in handle.answer(others):
            assert len(other.logprobs) != 1 or other.logprobs[0] <= free.logprobs[0] + self.likelihood_atol

    def test_sampling_is_determined_by_the_seed(self, subject: Subject) -> None:
        """Equal seeds give equal texts."""
        handle = subject.adopt("a")
        drawn = Generate(prompt=Prompt(text=self.prompts[0]), max_tokens=12, temperature=1.0, seed=3)
        first, second = handle.answer([drawn]), handle.answer([drawn])
        assert _gap(first, second) <= self.atol

    def _generated(self, handle: Handle) -> tuple[Generate, Response]:
        """Returns a request and its response, a text of at least three different characters."""
        for prompt in self.prompts:
            request = Generate(prompt=Prompt(text=prompt), max_tokens=24)
            [response] = handle.answer([request])
            if len(set(response.text)) > 2 and len(response.token_ids) > 2:
                return request, response
        raise AssertionError("no prompt has a continuation of three characters: override `prompts`")


class WeightEngineConformance(EngineConformance):
    """The requirements for engines that take weights. Override `make`.

    Override `engine` too to share an engine that is slow to start between tests.
    """

    @pytest.fixture
    def make(self) -> MakeWeightEngine:
        """Override: returns the function that starts an engine."""
        raise NotImplementedError

    @pytest.fixture
    def host(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A toy Llama with tied embeddings that generates printable characters."""
        from crossbreed.testing.toys import make_printable_pair

        return make_printable_pair(tmp_path_factory.getbasetemp() / "engine_conformance")[0]

    @pytest.fixture
    def engine(self, make: MakeWeightEngine, host: Path) -> Iterator[WeightEngine]:
        """A new engine for each test."""
        engine = make(host)
        yield engine
        engine.close()

    @pytest.fixture
    def a(self, host: Path) -> "Weights":
        """The host's weights."""
        return _load(host)

    @pytest.fixture
    def b(self, host: Path) -> "Weights":
        """Weights that differ from `a` in every matrix."""
        return _load(host.with_name("b"))

    @pytest.fixture
    def subject(self, engine: WeightEngine, a: "Weights", b: "Weights") -> Subject:
        """Candidates "a" and "b" are the fixtures of these names."""
        weights = {"a": a, "b": b}
        return Subject(engine=engine, adopt=lambda name: _adopt(engine, weights[name]))

    def test_a_used_engine_responds_as_a_new_one(
        self, make: MakeWeightEngine, host: Path, engine: WeightEngine, a: "Weights", b: "Weights"
    ) -> None:
        """Nothing of earlier candidates and requests is left, such as cached prompts."""
        _adopt(engine, b)
        _adopt(engine, a).answer(self.requests)
        swapped = _adopt(engine, b).answer(self.requests)
        fresh = make(host)
        try:
            assert fresh.keeps(b.keys()) == frozenset(), "a new engine holds no weights"
            assert _gap(_adopt(fresh, b).answer(self.requests), swapped) <= self.atol
        finally:
            fresh.close()

    def test_the_stream_is_consumed_to_the_end(self, engine: WeightEngine, a: "Weights") -> None:
        """The fingerprint is taken of the whole stream."""
        ends: list[bool] = []

        def to_the_end() -> WeightStream:
            yield from a.items()
            ends.append(True)

        for recipe in RECIPES:
            engine.adopt(recipe, to_the_end())
        assert ends == [True, True]

    def test_responses_depend_on_weights_and_not_on_the_recipe(
        self, engine: WeightEngine, a: "Weights", b: "Weights"
    ) -> None:
        """Equal weights with different recipes, and different weights with equal recipes."""
        first = _adopt(engine, a, RECIPES[0]).answer(self.requests)
        other = _adopt(engine, b, RECIPES[0]).answer(self.requests)
        assert _gap(first, other) > self.atol
        assert _gap(_adopt(engine, a, RECIPES[1]).answer(self.requests), first) <= self.atol

    @pytest.mark.parametrize("part", ["layers.1.", "layers.2.mlp.", "embed_tokens", "self_attn.k_proj", ""])
    def test_kept_tensors_may_be_left_out_of_the_stream(
        self, engine: WeightEngine, a: "Weights", b: "Weights", part: str
    ) -> None:
        """Sending the changed tensors only gives the responses of sending all, in both directions."""
        mixed = {name: a[name] if part and part in name else b[name] for name in a}
        whole = {name: _adopt(engine, weights).answer(self.requests) for name, weights in (("m", mixed), ("b", b))}
        unchanged = {name for name in b if mixed[name] is b[name]}
        for name, weights in (("m", mixed), ("b", b), ("m", mixed)):
            kept = engine.keeps(unchanged)
            assert kept <= unchanged, "tensors are kept that will change"
            sent = {name: tensor for name, tensor in weights.items() if name not in kept}
            assert _gap(_adopt(engine, sent, kept=kept).answer(self.requests), whole[name]) <= self.atol

    def test_only_tensors_of_the_last_candidate_are_kept(self, engine: WeightEngine, a: "Weights") -> None:
        """No unknown names, and none if all tensors change."""
        _adopt(engine, a)
        assert engine.keeps([]) == frozenset()
        assert engine.keeps(["no.such.weight", *a]) <= a.keys()

    @pytest.mark.parametrize("position", [0, 9, -1])
    def test_exceptions_of_the_stream_are_raised(
        self, engine: WeightEngine, a: "Weights", b: "Weights", position: int
    ) -> None:
        """Unchanged. The engine keeps no tensors then, and the next candidate responds correctly."""
        first = _adopt(engine, a).answer(self.requests)
        for error in (InvalidWeights("NaN in a layer"), _Interrupted("the disk is gone")):
            with pytest.raises(type(error), match=str(error)):
                engine.adopt(RECIPES[1], _torn(b, position, error))
            assert engine.keeps(a.keys()) == frozenset()
            assert _gap(_adopt(engine, a).answer(self.requests), first) <= self.atol

    def test_nan_weights_are_reported_and_leave_no_trace(self, engine: WeightEngine, a: "Weights") -> None:
        """By InvalidWeights or NaN log-probabilities, for all requests; the next candidate responds correctly."""
        first = _adopt(engine, a).answer(self.requests)
        broken = {name: tensor * math.nan if "layers.1." in name else tensor for name, tensor in a.items()}
        for requests in (self.requests, self.requests[:1], self.requests[-1:]):
            try:
                responses = _adopt(engine, broken).answer(requests)
            except InvalidWeights:
                continue
            assert not any(math.isfinite(r.logprobs[0]) for r in responses)
        assert _gap(_adopt(engine, a).answer(self.requests), first) <= self.atol

    def test_tensors_of_another_model_are_refused(self, make: MakeWeightEngine, host: Path, a: "Weights") -> None:
        """EngineError for an unknown name and for another shape: no tensor is skipped."""
        for wrong in ({"no.such.weight": a["model.norm.weight"]}, {"model.norm.weight": a["model.norm.weight"][:7]}):
            engine = make(host)
            try:
                with pytest.raises(EngineError):
                    _adopt(engine, a | wrong)
            finally:
                engine.close()

    def test_handles_of_a_closed_engine_raise(self, make: MakeWeightEngine, host: Path, a: "Weights") -> None:
        """EngineError, also for the last candidate."""
        engine = make(host)
        handle = _adopt(engine, a)
        engine.close()
        with pytest.raises(EngineError):
            handle.answer(self.requests)


class RecipeEngineConformance(EngineConformance):
    """The requirements for engines that take recipes. Override `example`."""

    @pytest.fixture
    def example(self) -> RecipeExample:
        """Override: returns how to start an engine, and two recipes."""
        raise NotImplementedError

    @pytest.fixture
    def engine(self, example: RecipeExample) -> Iterator[RecipeEngine]:
        """A new engine for each test."""
        engine = example.make()
        yield engine
        engine.close()

    @pytest.fixture
    def subject(self, engine: RecipeEngine, example: RecipeExample) -> Subject:
        """Candidates "a" and "b" are the recipes of the example."""
        recipes = {"a": example.a, "b": example.b}
        return Subject(engine=engine, adopt=lambda name: engine.adopt(recipes[name]))

    def test_a_used_engine_responds_as_a_new_one(self, engine: RecipeEngine, example: RecipeExample) -> None:
        """Nothing of earlier candidates and requests is left."""
        engine.adopt(example.a).answer(self.requests)
        swapped = engine.adopt(example.b).answer(self.requests)
        fresh = example.make()
        try:
            assert _gap(fresh.adopt(example.b).answer(self.requests), swapped) <= self.atol
        finally:
            fresh.close()

    def test_equal_recipes_have_equal_responses(self, engine: RecipeEngine, example: RecipeExample) -> None:
        """The order of keys in a recipe has no effect."""
        again = replace(example.a, sources=dict(reversed(dict(example.a.sources).items())))
        assert again.id == example.a.id
        first = engine.adopt(example.a).answer(self.requests)
        assert _gap(engine.adopt(again).answer(self.requests), first) <= self.atol

    def test_a_fingerprint_is_a_function_of_the_recipe(self, engine: RecipeEngine, example: RecipeExample) -> None:
        """Equal for equal recipes in all engines, before and after requests, different for A and B; or always None."""
        handles: dict[str, RecipeHandle] = {}
        found = []
        for name, recipe in (("a", example.a), ("b", example.b), ("a", example.a)):
            handles[name] = engine.adopt(recipe)
            found.append(handles[name].fingerprint)
            handles[name].answer(self.requests[:1])
            assert handles[name].fingerprint == found[-1]
        fresh = example.make()
        try:
            found.append(fresh.adopt(example.a).fingerprint)
        finally:
            fresh.close()
        assert found[0] == found[2] == found[3]
        if found[0] is not None:
            assert isinstance(found[0], str)
            assert found[0], "an empty fingerprint: return None instead"
            assert found[1] not in (None, found[0])


RECIPES = tuple(Recipe(base="base", sources={"base": content}, rules=()) for content in ("0", "1"))
"""Two recipes, of which an engine that takes weights needs the ids only."""


class _Interrupted(Exception):
    """An exception that no engine knows."""


def _adopt(
    engine: WeightEngine, weights: "Weights", recipe: Recipe = RECIPES[0], *, kept: Collection[str] = ()
) -> Handle:
    return engine.adopt(recipe, iter(sorted(weights.items())), kept=kept)


def _torn(weights: "Weights", position: int, error: Exception) -> WeightStream:
    """Raises instead of the tensor at `position`; -1: after the last."""
    for number, item in enumerate(sorted(weights.items())):
        if number == position:
            raise error
        yield item
    raise error


def _gap(some: Sequence[Response], others: Sequence[Response]) -> float:
    """Returns the largest difference of log-probabilities; infinite if tokens or texts differ or one is NaN."""
    if [(r.token_ids, r.text) for r in some] != [(r.token_ids, r.text) for r in others]:
        return math.inf
    pairs = [zip(one.logprobs, other.logprobs, strict=True) for one, other in zip(some, others, strict=True)]
    gap = max((abs(p - q) for pair in pairs for p, q in pair), default=0.0)
    return math.inf if math.isnan(gap) else gap


def _load(folder: Path) -> "Weights":
    from crossbreed.testing.toys import load_weights

    return load_weights(folder)
