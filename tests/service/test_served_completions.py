"""Completions answer as the engine does, in words that OpenAI's clients read."""

import math
from collections.abc import Sequence

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from service_client import Connect, account, merge, recipe_of, refused
from starlette.testclient import TestClient

from crossbreed.fitness import Generate, Loglikelihood, Prompt, Request, Response
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.recipes import parse_recipe
from crossbreed.runs.spec.serve import RecipeLimits
from crossbreed.service.core import Service

PROMPTS = ["The first", "and a second one", "3"]


def locally(service: Service, client: TestClient, requests: Sequence[Request], weight: float = 0.5) -> list[Response]:
    """What the engine says without HTTP."""
    recipe = parse_recipe(recipe_of(client, weight))
    return service.engine.submit(recipe, lambda adopted: adopted.handle.answer(requests), owner="test").result()


def complete(client: TestClient, **question: object) -> dict:
    answer = client.post("/v1/completions", json={"temperature": 0, **question})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_list_is_one_chunk_answered_as_without_http(client: TestClient, opened: Service) -> None:
    requests = [Generate(prompt=Prompt(text=text), max_tokens=6) for text in PROMPTS]
    model = merge(client)
    found = complete(client, model=model, prompt=PROMPTS, max_tokens=6, logprobs=0, return_token_ids=True)
    assert (found["model"], found["object"]) == (model, "text_completion")
    expected = locally(opened, client, requests)
    for index, (choice, response) in enumerate(zip(found["choices"], expected, strict=True)):
        assert (choice["index"], choice["text"], choice["finish_reason"]) == (index, response.text, response.ended)
        assert tuple(choice["token_ids"]) == response.token_ids
        assert tuple(choice["logprobs"]["token_logprobs"]) == response.logprobs
        assert choice["logprobs"]["top_logprobs"] is None
        offsets = choice["logprobs"]["text_offset"]
        assert offsets[0] == 0
        assert len(offsets) == len(choice["logprobs"]["tokens"]) == len(response.token_ids)
    prompt, completion = sum(r.prompt_tokens for r in expected), sum(len(r.token_ids) for r in expected)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    assert found["usage"] == usage


def test_texts_and_their_tokens_are_the_same_question(client: TestClient, opened: Service) -> None:
    texts = opened.texts
    assert texts is not None
    encoder = Encoder(opened.provider.weights.host)
    ids = [list(texts.tokens(text)) for text in PROMPTS]
    assert ids == [list(encoder.encode(Generate(prompt=Prompt(text=t), max_tokens=1)).token_ids) for t in PROMPTS]
    model = merge(client)
    by_text, by_ids = (
        complete(client, model=model, prompt=prompt, max_tokens=5, logprobs=2) for prompt in (PROMPTS, ids)
    )
    assert by_text["choices"] == by_ids["choices"]
    [alone] = complete(client, model=model, prompt=ids[0], max_tokens=5, logprobs=2)["choices"]
    assert alone == by_ids["choices"][0]


def test_prompts_are_scored_as_a_continuation_is(client: TestClient, opened: Service) -> None:
    asked = [Loglikelihood(prompt=Prompt(text=text), continuation=" and so on") for text in PROMPTS]
    expected = locally(opened, client, asked)
    whole = [f"{text} and so on" for text in PROMPTS]
    found = complete(client, model=merge(client), prompt=whole, max_tokens=1, prompt_logprobs=0)
    for choice, response in zip(found["choices"], expected, strict=True):
        scored = choice["prompt_logprobs"]
        assert scored[0] is None
        tail = scored[-len(response.token_ids) :]
        values = [place[str(token)]["logprob"] for place, token in zip(tail, response.token_ids, strict=True)]
        assert values == pytest.approx(response.logprobs, abs=1e-5)


def test_echo_and_logprobs_are_what_lm_eval_reads(client: TestClient) -> None:
    """As its `local-completions` does: token ids in, `echo`, `logprobs: 1`, one token more; sums all but the last."""
    prompt = list(b"a few more")
    question = {"prompt": [prompt], "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    [choice] = complete(client, model=merge(client), **question)["choices"]
    logprobs = choice["logprobs"]
    assert {len(values) for values in logprobs.values()} == {len(prompt) + 1}
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    assert all(math.isfinite(value) for value in logprobs["token_logprobs"][1:])
    for value, places in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True):
        assert value in places.values()
    assert logprobs["token_logprobs"][-1] == max(logprobs["top_logprobs"][-1].values()), "greedy"


def test_echo_without_an_answer(client: TestClient) -> None:
    [choice] = complete(client, model="base", prompt="abc", max_tokens=0, echo=True, logprobs=0)["choices"]
    assert (choice["text"], choice["finish_reason"], len(choice["logprobs"]["tokens"])) == ("abc", "length", 3)
    refused(client.post("/v1/completions", json={"model": "base", "prompt": "abc", "max_tokens": 0}), 400)


def test_a_chunk_of_unlike_questions_is_one_call(client: TestClient, opened: Service) -> None:
    limits, stops = [1, 3, 5], [["a"], [], ["\n", "b"]]
    asked = [
        Generate(prompt=Prompt(text=text), max_tokens=limit, stop=tuple(stop))
        for text, limit, stop in zip(PROMPTS, limits, stops, strict=True)
    ]
    before = opened.engine.num_adopted
    found = complete(client, model=merge(client, 0.3), prompt=PROMPTS, crossbreed={"max_tokens": limits, "stop": stops})
    assert [choice["text"] for choice in found["choices"]] == [r.text for r in locally(opened, client, asked, 0.3)]
    assert opened.engine.num_adopted == before + 1
    short = {"model": "base", "prompt": PROMPTS, "crossbreed": {"max_tokens": [1]}}
    refused(client.post("/v1/completions", json=short), 400, word="one value for each prompt")


def test_drawn_answers_depend_on_the_seed_alone(client: TestClient) -> None:
    texts = {
        (seed, again): complete(client, model="base", prompt="x", max_tokens=8, temperature=1, seed=seed)["choices"][0][
            "text"
        ]
        for seed in (None, 1, 2)
        for again in (0, 1)
    }
    assert all(texts[seed, 0] == texts[seed, 1] for seed in (None, 1, 2))
    assert len(set(texts.values())) == 3


def test_openais_own_client_works_unchanged(client: TestClient) -> None:
    api = OpenAI(base_url="http://testserver/v1", api_key="k" * 20, max_retries=0, http_client=client)
    model = merge(client)
    assert [one.id for one in api.models.list()] == ["base", "attention", "everything", model]
    assert api.models.retrieve(model).id == model
    completion = api.completions.create(model=model, prompt=["a", "b"], max_tokens=3, temperature=0, logprobs=2)
    assert (len(completion.choices), completion.model) == (2, model)
    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.token_logprobs is not None
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    chat = api.chat.completions.create(
        model=model, messages=messages, max_tokens=3, temperature=0, logprobs=True, top_logprobs=2
    )
    tokens = chat.choices[0].logprobs.content
    assert len(tokens) == chat.usage.completion_tokens
    assert all(token.top_logprobs[0].logprob == token.logprob for token in tokens), "greedy"
    with pytest.raises(NotFoundError) as unknown:
        api.completions.create(model="crossbreed:0", prompt="a")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(BadRequestError, match="stream"):
        api.completions.create(model=model, prompt="a", stream=True)


def test_a_chat_is_what_the_engine_renders(client: TestClient, opened: Service) -> None:
    turns = (("user", "One?"), ("assistant", "Two."))
    asked = Generate(prompt=Prompt(text="Three?", chat=True, system="Be brief.", turns=turns), max_tokens=4)
    messages = [{"role": "system", "content": "Be brief."}, *({"role": r, "content": c} for r, c in turns)]
    messages.append({"role": "user", "content": [{"type": "text", "text": "Three?"}]})
    model = merge(client)
    question = {"model": model, "messages": messages, "max_completion_tokens": 4, "temperature": 0}
    answer = client.post("/v1/chat/completions", json=question)
    [expected] = locally(opened, client, [asked])
    assert answer.json()["choices"][0]["message"]["content"] == expected.text
    assert answer.json()["usage"]["prompt_tokens"] == expected.prompt_tokens


def test_tokens_are_told_as_the_engine_makes_them(client: TestClient, opened: Service) -> None:
    encoder = Encoder(opened.provider.weights.host)
    asked = Loglikelihood(prompt=Prompt(text="Why?", chat=True), continuation=" So.")
    chat = {"messages": [{"role": "user", "content": "Why?"}], "continuation": " So."}
    for path in ("/tokenize", "/v1/tokenize"):
        found = client.post(path, json={"model": "base", **chat}).json()
        assert tuple(found["tokens"]) == encoder.encode(asked).token_ids
        assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), encoder.max_model_len)
    assert client.post("/tokenize", json={"prompt": "ab"}).json()["tokens"] == list(opened.texts.tokens("ab"))
    of_another_template = {"messages": chat["messages"], "chat_template": "{{ messages }}"}
    for wrong in ({}, {"prompt": "a", **chat}, {"messages": []}, {"messages": [{"role": "user"}]}, of_another_template):
        refused(client.post("/tokenize", json=wrong), 400)


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "streamed": ({"stream": True}, "stream"),
    "several": ({"n": 2}, "n"),
    "penalty": ({"frequency_penalty": 0.5}, "frequency_penalty"),
    "nucleus": ({"top_p": 0.5}, "top_p"),
    "unknown field": ({"guided_json": {}}, "guided_json"),
    "too many alternatives": ({"logprobs": 6}, "5"),
    "no prompt": ({"prompt": []}, "prompt"),
    "empty tokens": ({"prompt": [[]]}, "prompt"),
    "mixed": ({"prompt": ["a", [1]]}, "prompt"),
    "booleans": ({"prompt": [True, False]}, "prompt"),
    "negative token": ({"prompt": [-1]}, "does not have"),
    "unknown token": ({"prompt": [10**6]}, "does not have"),
    "empty text": ({"prompt": ""}, "empty"),
    "too long": ({"prompt": "x" * 600}, "512"),
    "too long an answer": ({"max_tokens": 600}, "512"),
    "beyond the service": ({"max_tokens": 10**6}, "at most 4096"),
    "negative answer": ({"max_tokens": -1}, "max_tokens"),
    "temperature": ({"temperature": -1}, "temperature"),
    "too many prompts": ({"prompt": ["a"] * 257}, "at most 256"),
    "too many tokens": ({"prompt": ["a"] * 60, "max_tokens": 500}, "at most 30000 tokens"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_offered_is_refused(connect: Connect, name: str) -> None:
    (changed, word), client = WRONG[name], connect(chunk_tokens=30_000)
    refused(client.post("/v1/completions", json={"model": "base", "prompt": "a", **changed}), 400, word=word)


def test_what_changes_nothing_is_taken(client: TestClient) -> None:
    neutral = {"stream": False, "n": 1, "best_of": 1, "user": "me", "top_p": 1, "frequency_penalty": 0.0, "stop": None}
    neutral |= {"logit_bias": {}, "presence_penalty": 0, "suffix": None, "cache_salt": "x"}
    assert complete(client, model="base", prompt="a", max_tokens=2, **neutral)["choices"]


def test_invalid_weights_are_a_measurement(connect: Connect) -> None:
    """fp16 overflows: 10 times the deltas of all experts is no number that it can hold."""
    client = connect(limits=RecipeLimits(coefficients=(-1e9, 1e9)))
    recipe = recipe_of(client, 0.5, dtype="float16")
    recipe["rules"][0]["params"]["weight"] = 1e8
    refused(client.post("/v1/merges", json={"recipe": recipe}), 422, "invalid_weights")
    assert complete(client, model="base", prompt="a", max_tokens=1)["choices"], "and the service goes on"


def test_a_forgotten_merge_is_named_again(client: TestClient) -> None:
    first = merge(client, 0.1)
    for weight in (0.2, 0.3, 0.4):
        merge(client, weight)
    refused(client.post("/v1/completions", json={"model": first, "prompt": "a"}), 404, "model_not_found")
    assert merge(client, 0.1) == first
    for weight in (0.2, 0.3):
        merge(client, weight)
    assert merge(client, 0.1) == first, "it is remembered, and used by that"
    merge(client, 0.4)
    assert complete(client, model=first, prompt="a", max_tokens=1)["choices"]


def test_log_probabilities_need_their_right(connect: Connect) -> None:
    client = connect(account("bob", "k" * 20, rights=("answers",)))
    assert client.get("/v1/sources").json()["abilities"] | {"rights": ["answers"], "alternatives": 0}
    question = {"model": "base", "prompt": "a", "max_tokens": 1}
    assert client.post("/v1/completions", json=question).status_code == 200
    for more in ({"logprobs": 0}, {"prompt_logprobs": 0}, {"echo": True, "logprobs": 1}):
        refused(client.post("/v1/completions", json={**question, **more}), 403, "no_right")
    chat = {"model": "base", "messages": [{"role": "user", "content": "a"}], "logprobs": True}
    refused(client.post("/v1/chat/completions", json=chat), 403, "no_right")
    refused(client.get("/v1/sources/inner_products"), 403, "no_right")
