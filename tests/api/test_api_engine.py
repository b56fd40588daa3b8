"""The engine `api` by itself: the laws of engines, what it reads, and what it does with a service's means."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fake_service import BEGIN, STRUCTURE, FakeService
from pydantic import ValidationError

from crossbreed.errors import EngineError, InputError
from crossbreed.fitness import EnginePart, Generate, Loglikelihood, Prompt, Surroundings, check_recipes
from crossbreed.fitness.engines.api.completions import Asked, body_of, grouped, read_completion
from crossbreed.fitness.engines.api.config import PART, ApiConfig
from crossbreed.fitness.engines.api.engine import ApiEngine
from crossbreed.fitness.services.faults import WrongAnswer
from crossbreed.fitness.services.pace import SystemClock
from crossbreed.testing.engines import RecipeEngineConformance, RecipeExample
from crossbreed.types import Recipe, Rule


def engine_of(service: FakeService, around: Surroundings | None = None) -> ApiEngine:
    config = ApiConfig(kind="api", url="http://service.test").over(service)
    config.describe_sources("", {})
    engine = ApiEngine(config)
    engine.begin(around or Surroundings())
    return engine


def recipe(weight: float) -> Recipe:
    rule = Rule(match=".*", operator="task_arithmetic", params={"weight": weight})
    return Recipe(base="base", sources=STRUCTURE.hashes, rules=(rule,))


class TestApiEngine(RecipeEngineConformance):
    likelihood_atol = 10.0  # the fake service's texts are not the likeliest ones

    @pytest.fixture
    def example(self) -> RecipeExample:
        service = FakeService()
        return RecipeExample(make=lambda: engine_of(service), a=recipe(0.4), b=recipe(1.5))


def test_what_a_spec_s_engine_says_of_itself() -> None:
    assert isinstance(PART, EnginePart)
    assert PART.needs == ("openai",)
    config = ApiConfig(kind="api", url="https://one.test/v1/", patience=1, key_env="K", requests_per_minute=3)
    assert config.identity() == ApiConfig(kind="api", url="http://two.test").identity() == {"kind": "api"}


def test_the_client_knows_the_ranks_of_the_service_s_adapters() -> None:
    [first, second, *_] = STRUCTURE.experts
    ranks = {name: dict.fromkeys(STRUCTURE.touched[name], rank) for name, rank in ((first, 4), (second, 8))}
    told = FakeService().reply("/v1/sources", None, None)[1] | {"structure": replace(STRUCTURE, ranks=ranks).to_json()}
    service = httpx2.MockTransport(lambda request: httpx2.Response(200, json=told))
    config = ApiConfig(kind="api", url="http://service.test").over(service)
    assert config.describe_sources("", {}).ranks == ranks, "by which `lora_factors` is refused before a run"
    assert config.describe_sources("", {second: second}).ranks == {second: ranks[second]}


def test_a_chunk_is_one_body_with_the_tokens_of_a_local_engine() -> None:
    service = FakeService()
    handle = engine_of(service).adopt(recipe(0.4))
    service.asked.clear()
    said = Generate(prompt=Prompt(text="red|ä|é"), max_tokens=5, stop=("\n",))
    scored = Loglikelihood(prompt=Prompt(text="red|a"), continuation=" bc")
    chat = Loglikelihood(prompt=Prompt(text="hi", chat=True, system="s", turns=(("user", "u"),)), continuation="yes")
    given = Generate(prompt=Prompt(text="", token_ids=(BEGIN, 114, 101, 100, 124, 65)), max_tokens=5, stop=("\n",))
    responses = handle.answer([said, scored, chat, given])
    [body] = [body for path, body in service.asked if path == "/v1/completions"]
    assert body["prompt"][0] == [BEGIN, *"red|ä|é".encode()]
    assert body["prompt"][1] == [BEGIN, *b"red|a bc"]
    assert bytes(body["prompt"][2][1:]) == b"<system>s\n<user>u\n<user>hi\n<assistant>yes"
    assert body["prompt"][3] == [BEGIN, 114, 101, 100, 124, 65]
    assert body["crossbreed"] == {"max_tokens": [5, 1, 1, 5], "stop": [["\n"], [], [], ["\n"]]}
    assert responses[1].token_ids == tuple(b" bc")
    assert responses[2].token_ids == tuple(b"yes")
    assert len(responses[1].logprobs) == 3
    service.asked.clear()
    handle.answer([said, scored, chat, given])
    assert not service.count("/v1/tokenize"), "texts are tokenized once"


def test_what_differs_in_temperature_or_seed_is_asked_apart() -> None:
    prompt = Prompt(text="x", token_ids=(1, 2))
    requests = [
        Generate(prompt=prompt, max_tokens=3),
        Loglikelihood(prompt=Prompt(text="x"), continuation="y"),
        Generate(prompt=prompt, max_tokens=3, temperature=1.0, seed=1),
        Generate(prompt=prompt, max_tokens=4, seed=9),
        Generate(prompt=prompt, max_tokens=3, temperature=1.0, seed=2),
    ]
    asked = [Asked(request=request, token_ids=(1, 2), num_prompt=1) for request in requests]
    assert grouped(asked) == [[0, 1, 3], [2], [4]]
    bodies = [body_of([asked[place] for place in places], with_logprobs=True) for places in grouped(asked)]
    assert [body.get("seed") for body in bodies] == [None, 1, 2]
    assert bodies[0]["crossbreed"]["max_tokens"] == [3, 1, 4]
    assert "prompt_logprobs" in bodies[0]
    assert "prompt_logprobs" not in bodies[1]
    assert grouped([asked[1]]) == [[0]]


def test_more_prompts_than_the_service_takes_are_asked_in_parts() -> None:
    service = FakeService(chunk=3)
    handle = engine_of(service).adopt(recipe(0.4))
    requests = [Generate(prompt=Prompt(text=f"red|{i}|{i}"), max_tokens=4) for i in range(8)]
    whole = engine_of(FakeService()).adopt(recipe(0.4))
    service.asked.clear()
    assert handle.answer(requests) == whole.answer(requests)
    assert [len(body["prompt"]) for path, body in service.asked if path == "/v1/completions"] == [3, 3, 2]


ASKED = [
    Asked(request=Generate(prompt=Prompt(text=""), max_tokens=2, alternatives=1), token_ids=(5, 6), num_prompt=2),
    Asked(request=Loglikelihood(prompt=Prompt(text=""), continuation="x"), token_ids=(5, 6, 7), num_prompt=1),
]


def answer(**changes: Any) -> dict[str, Any]:
    """A right answer, but for the second choice's changed keys."""
    table = [None, {"6": {"logprob": -1.5, "rank": 2}}, {"7": {"logprob": -0.5}, "9": {"logprob": -0.1}}]
    said = {"token_logprobs": [-0.25, 0.0], "top_logprobs": [{"token_id:3": -0.25}, {"token_id:4": 0.0}]}
    first = {"index": 0, "text": "ab", "finish_reason": "length", "token_ids": [3, 4], "logprobs": said}
    first["prompt_token_ids"] = [5, 6]
    second = {"index": 1, "text": "c", "finish_reason": "length", "token_ids": [8], "prompt_logprobs": table}
    second["prompt_token_ids"] = [5, 6, 7]
    return {"model": "m", "choices": [first | changes.pop("first", {}), second | changes], "more": 1}


def test_a_right_answer_is_read() -> None:
    said, scored = read_completion(answer(), ASKED, model="m", with_logprobs=True)
    assert (said.text, said.token_ids, said.logprobs, said.ended) == ("ab", (3, 4), (-0.25, 0.0), "length")
    assert said.alternatives == ({3: -0.25}, {4: 0.0})
    assert (scored.text, scored.token_ids, scored.logprobs, scored.prompt_tokens) == ("", (6, 7), (-1.5, -0.5), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"index": 0},
        {"index": "1"},
        {"text": None},
        {"finish_reason": None},
        {"finish_reason": "content_filter"},
        {"token_ids": None},
        {"token_ids": [1, 2, 3]},
        {"token_ids": ["1"]},
        {"prompt_token_ids": [5, 6]},
        {"prompt_token_ids": None},
        {"prompt_logprobs": None},
        {"prompt_logprobs": [None, {"6": {"logprob": -1.5}}]},
        {"prompt_logprobs": [{"5": {"logprob": -1}}, {"6": {"logprob": -1.5}}, {"7": {"logprob": -1}}]},
        {"prompt_logprobs": [None, None, {"7": {"logprob": -1}}]},
        {"prompt_logprobs": [None, {"6": {"logprob": 0.5}}, {"7": {"logprob": -1}}]},
        {"prompt_logprobs": [None, {"6": {"logprob": "-1"}}, {"7": {"logprob": -1}}]},
        {"prompt_logprobs": [None, {"7": {"logprob": -1}}, {"7": {"logprob": -1}}]},
        {"prompt_logprobs": [None, {"six": {"logprob": -1}}, {"7": {"logprob": -1}}]},
        {"prompt_logprobs": [None, {"6": {"logprob": float("inf")}}, {"7": {"logprob": -1}}]},
        {"first": {"logprobs": None}},
        {"first": {"logprobs": {"token_logprobs": [-0.1], "top_logprobs": [{"token_id:3": -0.1}]}}},
        {"first": {"logprobs": {"token_logprobs": [-0.1, None], "top_logprobs": None}}},
        {"first": {"logprobs": {"token_logprobs": [-0.1, -0.1], "top_logprobs": None}}},
        {"first": {"logprobs": {"token_logprobs": [-0.1, -0.1], "top_logprobs": [{"a": -1}, {"b": -1}]}}},
        {"first": {"token_ids": []}},
    ],
)
def test_a_wrong_answer_is_no_response(changes: dict[str, Any]) -> None:
    with pytest.raises((WrongAnswer, ValidationError)):
        read_completion(answer(**changes), ASKED, model="m", with_logprobs=True)


@pytest.mark.parametrize("value", [None, [], "<html>", {}, {"model": "m"}, {"model": "m", "choices": []}])
def test_what_is_no_completion_is_no_response(value: Any) -> None:
    with pytest.raises((WrongAnswer, ValidationError)):
        read_completion(value, ASKED, model="m", with_logprobs=True)


def test_another_model_s_answer_is_no_response() -> None:
    with pytest.raises(WrongAnswer, match="answered, not `n`"):
        read_completion(answer(), ASKED, model="n", with_logprobs=True)


def test_a_merge_that_is_forgotten_is_posted_again() -> None:
    service = FakeService()
    handle = engine_of(service).adopt(recipe(0.4))
    request = Generate(prompt=Prompt(text="red|1|2"), max_tokens=4)
    before = handle.answer([request])
    service.restart()
    assert handle.answer([request]) == before
    assert service.count("/v1/merges") == 2


def test_a_canary_asks_anew_and_leaves_the_journal_as_it_is(tmp_path: Path) -> None:
    service, around = FakeService(), Surroundings(folder=tmp_path)
    question = [Generate(prompt=Prompt(text="red|1|2"), max_tokens=4)]
    answered = engine_of(service, around).adopt(recipe(0.4)).answer(question)  # and the process is killed
    file = tmp_path / f"{recipe(0.4).id}.jsonl"
    kept, engine = file.read_bytes(), engine_of(service, around)
    count = service.count("/v1/completions")
    with engine.asking_anew():
        assert engine.adopt(recipe(0.4)).answer(question) == answered
    assert service.count("/v1/completions") == count + 1
    check_recipes(engine, recipe(0.4), recipe(1.5), question)
    assert file.read_bytes() == kept
    count = service.count("/v1/completions")
    assert engine.adopt(recipe(0.4)).answer(question) == answered
    assert service.count("/v1/completions") == count, "the candidate goes on where it was stopped"


def test_a_service_that_forgets_at_once_cannot_be_asked() -> None:
    class Forgetful(FakeService):
        def _complete(self, body: Any) -> Any:
            self.made.clear()
            return super()._complete(body)

    handle = engine_of(Forgetful()).adopt(recipe(0.4))
    with pytest.raises(EngineError, match="as soon as it has made it"):
        handle.answer([Generate(prompt=Prompt(text="red|1|2"), max_tokens=4)])


def test_other_weights_of_the_same_recipe_are_not_mixed() -> None:
    service = FakeService()
    handle = engine_of(service).adopt(recipe(0.4))
    service.restart()
    service.salt = "other sources"
    with pytest.raises(EngineError, match="makes other weights from recipe"):
        handle.answer([Generate(prompt=Prompt(text="red|1|2"), max_tokens=4)])


def test_what_does_not_fit_the_service_is_the_user_s(tmp_path: Path) -> None:
    handle = engine_of(FakeService()).adopt(recipe(0.4))
    with pytest.raises(InputError, match="does not fit the service's context"):
        handle.answer([Generate(prompt=Prompt(text="a" * 2100), max_tokens=4)])
    with pytest.raises(InputError, match="too short to score"):
        handle.answer([Loglikelihood(prompt=Prompt(text="a"), continuation="")])
    with pytest.raises(InputError, match="alternatives"):
        handle.answer([Generate(prompt=Prompt(text="a"), max_tokens=4, alternatives=9)])


def test_what_a_service_cannot_do_is_noted() -> None:
    class Moody(FakeService):
        def _complete(self, body: Any) -> Any:
            found = super()._complete(body)
            for choice in found["choices"]:
                choice["logprobs"]["token_logprobs"] = [
                    -self.count("/v1/completions") / 1000 for _ in choice["token_ids"]
                ]
            return found

    class Crowded(FakeService):
        def _complete(self, body: Any) -> Any:
            found = super()._complete(body)
            for choice in found["choices"]:
                choice["logprobs"]["token_logprobs"] = [-len(body["prompt"]) / 1000 for _ in choice["token_ids"]]
            return found

    assert engine_of(FakeService()).notes == ()
    [moody], [crowded] = engine_of(Moody()).notes, engine_of(Crowded()).notes
    assert "differently each time, by up to" in moody
    assert "depend on the other prompts" in crowded
    assert "takes 2 prompts at a time" in engine_of(FakeService(chunk=2)).notes[-1]


def test_time_is_the_machine_s() -> None:
    clock = SystemClock()
    begun = clock.now()
    clock.sleep(0.01)
    assert 0.01 <= clock.now() - begun < 5
    assert clock.wall() > 1.7e9
