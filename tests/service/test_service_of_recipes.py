"""A service around an engine that takes recipes: no weights and no tokenizer here; and the same over TLS."""

import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import Queue

import httpx2
import pytest
import uvicorn
from service_client import account, merge, refused
from starlette.testclient import TestClient

from crossbreed.errors import EngineError, MachineError
from crossbreed.runs.spec.provider import load_provider_spec
from crossbreed.service import chunks
from crossbreed.service.accounts import Accounts
from crossbreed.service.app import build_app
from crossbreed.service.connections import Crowd
from crossbreed.service.core import Service
from crossbreed.service.provider import Provider
from crossbreed.service.server import listening, serve_spec, settings_of
from crossbreed.service.serving import opened_service

SPEC = """
sources: {base: fake/base, experts: {attention: fake/one, everything: fake/two}}
fitness: {engine: {kind: fake_recipes}}
"""
KEY = "k" * 20


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "fake.yaml").write_text(SPEC)
    accounts = Accounts(dict([account("alice", KEY, tokens=1000)]), None)
    with opened_service(load_provider_spec(tmp_path / "fake.yaml"), accounts=accounts) as service:
        yield service


@pytest.fixture
def client(service: Service) -> TestClient:
    return TestClient(build_app(service), headers={"Authorization": f"Bearer {KEY}"})


def test_texts_go_to_the_engine_as_they_are(client: TestClient, service: Service) -> None:
    prompts = [f"sums|{n}|right" for n in range(8)]
    models = [merge(client, weight) for weight in (0.1, 0.5)]
    for model in models:
        question = {"model": model, "prompt": prompts, "max_tokens": 9, "temperature": 0, "logprobs": 1}
        answer = client.post("/v1/completions", json=question).json()
        assert {choice["text"] for choice in answer["choices"]} <= {"right", "?"}
        assert answer["choices"][0]["logprobs"]["tokens"][0].startswith("token_id:")
    chat = {"model": models[0], "messages": [{"role": "user", "content": prompts[0]}], "max_tokens": 9}
    assert client.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
    assert client.get("/v1/sources").json()["abilities"]["max_model_len"] is None
    [alice] = service.accounts.names
    assert alice.tokens is not None
    assert alice.tokens < 1000, "what the engine says that it took"


def test_waiting_costs_nothing_and_giving_up_is_not_free(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is told 503 because its own chunk takes too long has had it computed all the same."""
    provider = replace(service.provider, config=service.config.model_copy(update={"answer_s": 0.2}))
    app = build_app(replace(service, provider=provider))
    client, begun, end = (
        TestClient(app, headers={"Authorization": f"Bearer {KEY}"}),
        threading.Event(),
        threading.Event(),
    )
    [alice] = service.accounts.names

    def slow(adopted: object) -> None:
        begun.set()
        end.wait(10)

    question = {"model": "base", "prompt": "sums|1|right", "max_tokens": 100}
    blocking = service.engine.submit(provider.base_recipe, slow, owner="bob")
    assert begun.wait(10)
    refused(client.post("/v1/completions", json=question), 503, "overloaded")
    refused(client.get("/health"), 503, "engine_hangs")
    assert alice.tokens == 1000, "it only waited"
    end.set()
    blocking.result(10)
    assert client.get("/health").status_code == 200
    end.clear()
    monkeypatch.setattr(chunks, "finite_answers", lambda adopted, requests: slow(adopted))
    refused(client.post("/v1/completions", json=question), 503, "overloaded")
    assert alice.tokens == 900
    end.set()


def test_what_needs_weights_or_a_tokenizer_is_not_offered(client: TestClient) -> None:
    refused(client.get("/v1/sources/inner_products"), 404, "not_offered")
    refused(client.post("/tokenize", json={"prompt": "a"}), 404, "not_offered")
    refused(client.post("/v1/checkpoints", json={"model": "base"}), 404, "not_offered")
    scored = {"model": "base", "prompt": "sums|1|2", "prompt_logprobs": 0, "max_tokens": 1}
    refused(client.post("/v1/completions", json=scored), 400, "not_offered")


def test_a_certificate_makes_it_https(service: Service, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    files = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    config = service.config.model_copy(update={**files, "port": 0, "header_s": 0.5})
    server = uvicorn.Server(settings_of(build_app(service), config, Crowd(most=9)))
    with listening(config) as listener:
        port = listener.getsockname()[1]
        running = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        running.start()
        while not server.started:
            time.sleep(0.01)
        try:
            trust = ssl.create_default_context(cafile=str(certificate))
            found = httpx2.get(f"https://127.0.0.1:{port}/health", verify=trust)
            assert found.json() == {"status": "ok"}
            with pytest.raises(httpx2.TransportError):
                httpx2.get(f"http://127.0.0.1:{port}/health")
        finally:
            server.should_exit = True
            running.join()


def test_a_service_whose_engine_breaks_ends_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor starts it again: wrong answers would be worse than none."""
    monkeypatch.setenv("ALICE_KEY", KEY)
    (tmp_path / "fake.yaml").write_text(
        f"{SPEC}serve: {{port: 0, tokens: {{a: {{key_env: ALICE_KEY, rights: [answers]}}}}}}"
    )
    spec, lines, ended = load_provider_spec(tmp_path / "fake.yaml"), Queue[str](), list[BaseException]()

    def serving() -> None:
        try:
            serve_spec(spec, on_start=lines.put)
        except MachineError as error:
            ended.append(error)

    running = threading.Thread(target=serving)
    running.start()
    url = str(re.search(r"http://\S+(?=/v1)", lines.get(timeout=60))[0])

    def broken(*_: object) -> None:
        raise EngineError("no memory on /secret/path")

    monkeypatch.setattr(chunks, "finite_answers", broken)
    monkeypatch.setattr(Provider, "probe", broken)
    monkeypatch.setattr(Provider, "start", broken)
    question, headers = {"model": "base", "prompt": "a"}, {"Authorization": f"Bearer {KEY}"}
    message = refused(httpx2.post(f"{url}/v1/completions", json=question, headers=headers), 500, "engine_error")
    assert "secret" not in message
    running.join(30)
    assert [str(error) for error in ended] == [
        "the engine broke and did not start again, so the service has ended: no memory on /secret/path"
    ]
