"""Strangers: without a key, with somebody else's, with too much, too slowly, or with what is no request at all."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from pydantic import BaseModel, ValidationError
from service_client import Connect, account, hashes_of, merge, recipe_of, refused
from starlette.testclient import TestClient

from crossbreed.fitness import wire
from crossbreed.service.accounts import Bucket
from crossbreed.service.app import build_api, build_app
from crossbreed.service.core import Service
from crossbreed.service.logs import JsonLines, said
from crossbreed.service.questions import ChatQuestion, CompletionQuestion
from crossbreed.service.texts import Texts

ALICE, BOB = "alice-key-0123456789", "bob-key-0123456789"
PATHS = [
    "/v1/sources",
    "/v1/models",
    "/v1/models/base",
    "/metrics",
    "/v1/sources/inner_products",
    "/openapi.json",
    "/x",
]


def with_key(client: TestClient, key: str) -> TestClient:
    client.headers["Authorization"] = f"Bearer {key}"
    return client


@pytest.fixture
def two(connect: Connect) -> TestClient:
    return connect(account("alice", ALICE), account("bob", BOB), key=ALICE)


@pytest.mark.parametrize("key", ["", "wrong", ALICE[:-1], ALICE + "x"])
def test_nothing_is_told_without_a_key(two: TestClient, key: str) -> None:
    with_key(two, key)
    for path in PATHS:
        refused(two.get(path), 401, "invalid_api_key")
    answer = two.post("/v1/completions", content=b"{" * 10**6)
    refused(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert two.get("/health").json() == {"status": "ok"}


def test_a_merge_is_known_to_its_own_client_alone(two: TestClient) -> None:
    model = merge(two, 0.25)
    with_key(two, BOB)
    question = {"model": model, "prompt": "a", "max_tokens": 1}
    refused(two.post("/v1/completions", json=question), 404, "model_not_found")
    refused(two.get(f"/v1/models/{model}"), 404, "model_not_found")
    assert model not in [one["id"] for one in two.get("/v1/models").json()["data"]]
    assert merge(two, 0.25) == model
    assert two.post("/v1/completions", json=question).status_code == 200


def test_budgets_end_and_rates_wait(connect: Connect) -> None:
    client = connect(account("poor", ALICE, merges=1, tokens=20), key=ALICE)
    model = merge(client)
    assert merge(client) == model, "one that is remembered is not made again"
    refused(client.post("/v1/merges", json={"recipe": recipe_of(client, 0.1)}), 403, "budget_spent", "merges")
    question = {"model": model, "prompt": "abcde", "max_tokens": 5, "temperature": 0}
    assert client.post("/v1/completions", json=question).status_code == 200
    refused(client.post("/v1/completions", json={**question, "max_tokens": 10}), 403, "budget_spent", "tokens")
    client = connect(account("few", ALICE, requests=1), key=ALICE)
    assert client.get("/v1/models").status_code == 200
    refused(client.get("/v1/models"), 403, "budget_spent", "requests")


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (CompletionQuestion, {"prompt": [[1], "a"] * 1000}),
        (CompletionQuestion, {"stop": [""] * 1000}),
        (CompletionQuestion, {"crossbreed": {"max_tokens": [0] * 1000, "stop": [[""]] * 1000}}),
        (ChatQuestion, {"messages": [{}] * 1000}),
        (wire.EvaluationQuestion, {"task": "sums", "items": [1] * 1000}),
        (wire.TokenizeQuestion, {"messages": [1] * 1000}),
    ],
)
def test_of_a_million_mistakes_a_few_are_found(model: type[BaseModel], changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as error:
        model.model_validate({"model": "base", "prompt": "a", **changes} if "messages" not in changes else changes)
    assert error.value.error_count() < 9


def test_an_object_of_many_keys_is_refused(client: TestClient) -> None:
    question = {"model": "base", "prompt": "a", **{f"k{n}": 0 for n in range(100)}}
    refused(client.post("/v1/completions", json=question), 400, word="more than 100 keys")
    nested = {"role": "user", "content": "a", **{f"k{n}": 0 for n in range(100)}}
    for messages in ([nested], [{"role": "user", "content": [nested]}]):
        asked = {"model": "base", "messages": messages}
        refused(client.post("/v1/chat/completions", json=asked), 400, word="more than 100 keys")
    many = recipe_of(client) | {"artifacts": {f"k{n}": "" for n in range(200)}}
    refused(client.post("/v1/merges", json={"recipe": many}), 400, "recipe_refused", "no artifacts")


def test_a_merge_that_was_waited_for_in_vain_is_not_counted(connect: Connect, opened: Service) -> None:
    alice, is_free = account("alice", ALICE, merges=1), Event()
    in_vain = connect(alice, key=ALICE, answer_s=0.05)
    recipe = recipe_of(in_vain, 0.31)
    busy = opened.engine.submit(opened.provider.base_recipe, lambda adopted: is_free.wait(60), owner="test")
    try:
        for _ in range(3):
            refused(in_vain.post("/v1/merges", json={"recipe": recipe}), 503, "overloaded")
    finally:
        is_free.set()
    assert busy.result()
    assert merge(connect(alice, key=ALICE), 0.31)


@pytest.mark.parametrize("path", ["/v1/merges", "/v1/completions", "/v1/evaluations"])
def test_what_a_client_that_has_hung_up_was_waiting_for_is_not_done(
    path: str, connect: Connect, opened: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    alice, is_free = account("alice", ALICE, merges=1, tokens=1000), Event()
    app = connect(alice, key=ALICE).app
    recipe = recipe_of(connect(), 0.77)
    questions = {
        "/v1/merges": {"recipe": recipe},
        "/v1/completions": {"model": "attention", "prompt": "a", "max_tokens": 4},
        "/v1/evaluations": {"model": "attention", "task": "text"},
    }
    body = json.dumps(questions[path]).encode()
    sent = list[dict[str, object]]()
    before = opened.engine.num_adopted
    busy = opened.engine.submit(opened.provider.base_recipe, lambda adopted: is_free.wait(60), owner="test")

    async def hanging_up() -> None:
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, object]:
            if messages:
                return messages.pop()
            while not opened.engine.num_waiting:
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        headers = [(b"authorization", f"Bearer {ALICE}".encode()), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        await app({**scope, "root_path": "", "raw_path": path.encode(), "http_version": "1.1"}, receive, send)

    try:
        asyncio.run(asyncio.wait_for(hanging_up(), 20))
    finally:
        is_free.set()
    assert busy.result()
    opened.engine.submit_aside(lambda: None, owner="test").result(20)
    assert opened.engine.num_adopted <= before + 1, "the base alone"
    assert (alice[1].merges, alice[1].tokens) == (1, 1000)
    assert sent[0]["status"] == 499
    told = JsonLines().format([one for one in caplog.records if one.name.startswith("crossbreed")][-1])
    assert json.loads(told)["refused"] == "client_gone"


def test_who_hangs_up_while_a_merge_is_made_has_nothing_computed_unpaid(
    connect: Connect, opened: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine has begun, and counts no tokens yet."""
    alice, is_free, answers = account("alice", ALICE, tokens=1000), Event(), list[object]()
    client = connect(alice, key=ALICE, answer_s=0.2)
    monkeypatch.setattr("crossbreed.service.chunks.finite_answers", lambda *given: answers.append(given) or [])
    monkeypatch.setattr(opened.provider.__class__, "require_unchanged", lambda _: is_free.wait(60))
    opened.engine.submit_aside(lambda: setattr(opened.engine, "_held", None), owner="test").result(20)
    question = {"model": "attention", "prompt": "a", "max_tokens": 4}
    try:
        refused(client.post("/v1/completions", json=question), 503, "overloaded")
    finally:
        is_free.set()
    opened.engine.submit_aside(lambda: None, owner="test").result(20)
    assert (answers, alice[1].tokens) == ([], 1000)


def test_evaluations_spend_budgets_and_rates(connect: Connect) -> None:
    client, question = connect(account("poor", ALICE, tokens=3), key=ALICE), {"model": "base", "task": "text"}
    assert client.post("/v1/evaluations", json=question).status_code == 200
    refused(client.post("/v1/evaluations", json=question), 403, "budget_spent", "tokens")
    refused(connect(account("none", ALICE, tokens=0), key=ALICE).post("/v1/evaluations", json=question), 403)
    client = connect(account("slow", ALICE, token_rate=Bucket(10)), key=ALICE)
    assert client.post("/v1/evaluations", json=question).status_code == 200
    refused(client.post("/v1/evaluations", json=question), 429, "rate_limited", "tokens")


def test_a_chunk_that_is_too_large_is_refused_before_it_is_tokenized(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(chunk=2)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("tokenized")

    monkeypatch.setattr(Texts, "tokens", never)
    monkeypatch.setattr(Texts, "require_known", never)
    for prompts in (["a"] * 3, [[1]] * 3):
        refused(
            client.post("/v1/completions", json={"model": "base", "prompt": prompts}), 400, word="at most 2 prompts"
        )


def test_what_is_too_large_is_not_read(connect: Connect) -> None:
    client = connect(body_bytes=2000)
    refused(client.post("/v1/completions", content=b" " * 2001), 413, "body_too_large")

    def in_parts() -> Iterator[bytes]:  # without a content-length
        for _ in range(3):
            yield b" " * 1000

    refused(client.post("/v1/completions", content=in_parts()), 413, "body_too_large")
    refused(client.post("/v1/completions", headers={"content-length": "1e3"}, content=b""), 413)


def test_a_slow_body_ends(opened: Service) -> None:
    """Straight through ASGI: a body that stands still."""
    from crossbreed.service.guard import Bounded
    from crossbreed.service.refusals import Refusal

    async def waiting() -> dict:
        await asyncio.sleep(60)
        return {}

    async def never(*_: object) -> None:
        raise AssertionError

    scope = {"type": "http", "headers": [], "method": "POST", "path": "/"}
    began_s = time.monotonic()
    with pytest.raises(Refusal) as refusal:
        asyncio.run(Bounded(never, max_bytes=10, seconds=0.05)(scope, waiting, never))
    assert (refusal.value.status, time.monotonic() - began_s < 10) == (408, True)


BODIES = {
    "nothing": b"",
    "half": b'{"model": "base", "prompt"',
    "deep": b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long number": b'{"model": "base", "prompt": "a", "max_tokens": ' + b"9" * 100_000 + b"}",
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "null": b"null",
    "twice": b'{"model": "base", "model": "base", "prompt": "a"}',
    "surrogate": b'{"model": "\\ud800", "prompt": "a"}',
    "NaN": b'{"model": "base", "prompt": "a", "temperature": NaN}',
    "infinite": b'{"model": "base", "prompt": "a", "temperature": 1e999}',
    "zero byte": b'{"model": "base\\u0000", "prompt": "\\u0000", "nope": 1}',
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/merges", "/v1/evaluations"])
def test_a_body_that_is_no_question_is_refused(client: TestClient, name: str, path: str) -> None:
    refused(client.post(path, content=BODIES[name], headers={"content-type": "application/json"}), 400)


def test_a_recipe_with_numbers_that_are_none_is_refused(client: TestClient) -> None:
    text = json.dumps({"recipe": recipe_of(client, 0.5)}).replace("0.5", "NaN")
    answer = client.post("/v1/merges", content=text, headers={"content-type": "application/json"})
    refused(answer, 400, "recipe_refused")


def test_a_recipe_that_names_a_path_reads_nothing(client: TestClient, tmp_path: Path) -> None:
    hashes = hashes_of(client)
    for name in ("/etc/passwd", "../toys", str(tmp_path)):
        recipe = recipe_of(client, 0.5, sources={**hashes, name: "0" * 32})
        message = refused(client.post("/v1/merges", json={"recipe": recipe}), 400, "recipe_refused")
        assert "there is no source" in message or "3 sources" in message


def test_pages_of_other_names_are_refused_where_no_key_is_needed(opened: Service) -> None:
    from dataclasses import replace

    from crossbreed.service.accounts import accounts_of

    app = build_app(replace(opened, accounts=accounts_of({})), hosts={"127.0.0.1", "[::1]"})
    for host, status in (
        ("127.0.0.1:80", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
    ):
        assert TestClient(app).get("/v1/models", headers={"Host": host}).status_code == status


def test_no_message_has_a_path_of_the_providers(
    client: TestClient, opened: Service, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = str(tmp_path_factory.getbasetemp())
    texts = [client.get(path).text for path in PATHS]
    refusing = {"model": "base", "prompt": "", "messages": []}
    texts += [
        client.post(path, json=refusing).text for path in ("/v1/completions", "/v1/chat/completions", "/tokenize")
    ]
    texts.append(client.post("/v1/checkpoints", json={"model": "base"}).text)
    assert not any(root in text for text in texts)


def test_the_log_has_who_and_how_much_and_nothing_else(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    secret = "a secret prompt"
    question = {"model": "base", "prompt": secret, "max_tokens": 2, "temperature": 0}
    text = client.post("/v1/completions?key=hidden", json=question).json()["choices"][0]["text"]
    refused(client.post("/v1/completions", json={**question, "stop": secret, "top_k": secret}), 400)
    lines = [
        json.loads(JsonLines().format(record)) for record in caplog.records if record.name.startswith("crossbreed")
    ]
    [good, bad] = [line for line in lines if line["event"] == "request"]
    assert good | {"client": "alice", "path": "/v1/completions", "status": 200, "model": "base"} == good
    assert (good["prompt_tokens"], good["completion_tokens"], good["prompts"]) == (len(secret), 2, 1)
    assert bad["status"] == 400
    written = json.dumps(lines)
    for hidden in (secret, "k" * 20, "hidden", text):
        assert not hidden.strip() or hidden not in written or len(hidden) < 3


def test_a_bug_tells_nothing_of_the_prompt(
    client: TestClient, opened: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import crossbreed.service.chunks as chunks

    def broken(*_: object) -> None:
        raise RuntimeError("a secret prompt")

    monkeypatch.setattr(chunks, "prompt_of", broken)
    client = TestClient(client.app, headers=client.headers, raise_server_exceptions=False)
    answer = client.post("/v1/completions", json={"model": "base", "prompt": "a secret prompt"})
    assert "secret" not in refused(answer, 500, "internal_error")
    written = "".join(JsonLines().format(record) for record in caplog.records)
    assert '"error": "RuntimeError"' in written
    assert "secret" not in written


def test_metrics_count_in_a_registry_of_their_own(client: TestClient) -> None:
    from prometheus_client import REGISTRY

    before = client.get("/metrics").text
    client.post("/v1/completions", json={"model": "base", "prompt": "a", "max_tokens": 1})
    client.get("/no/such/path")
    client.request("BREW", "/v1/models")
    after = client.get("/metrics").text
    assert 'crossbreed_requests_total{method="POST",path="/v1/completions",status="200"}' in after
    assert 'path="other"' in after
    assert "BREW" not in after
    assert "/no/such" not in after
    assert "crossbreed_tokens_total" in before
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("crossbreed")]


def test_every_path_says_how_it_is_refused(opened: Service) -> None:
    for path, methods in build_api(opened).openapi()["paths"].items():
        for method in methods.values():
            assert {"400", "401", "403", "404", "408", "413", "422", "429", "503"} <= set(method["responses"]), path


def test_libraries_add_nothing_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Ray and vLLM put fields of their own into every record of the process."""
    logging.getLogger("crossbreed.service").warning("x", extra={**said(client="alice", model=None), "_ray": "secret"})
    [record] = caplog.records
    line = json.loads(JsonLines().format(record))
    assert {name: value for name, value in line.items() if name != "time"} == {
        "level": "warning",
        "event": "x",
        "client": "alice",
    }
