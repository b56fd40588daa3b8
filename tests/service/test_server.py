"""The real process at a real socket: one line, deadlines for slow strangers, a log without secrets, a graceful end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from service_client import recipe_of, write_spec

KEY = "a-key-of-alice-0123456789"
SERVE = (
    "{port: 0, header_s: 1, body_s: 1, stop_s: 20, tokens: {alice: {key_env: ALICE_KEY, rights: [answers, logprobs]}}}"
)
pytestmark = pytest.mark.slow


class Served:
    """A running service."""

    def __init__(self, spec: Path) -> None:
        self.log = spec.with_name("log.jsonl")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "crossbreed.cli", "serve", str(spec)],
                env={
                    **os.environ,
                    "ALICE_KEY": KEY,
                    "OMP_NUM_THREADS": "1",
                },  # on a busy machine, two wait for each other
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, "")  # vLLM prints, too
        self.line = next((line for line in lines if "/v1: " in line), "")
        found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", self.line)
        assert found, self.log.read_text()
        self.port = int(found[1])

    def send(self, *parts: bytes, gap_s: float = 0.0, wait_s: float = 15.0) -> tuple[bytes, float]:
        """Sends bytes slowly; returns the answer, and after how many seconds the connection was answered or closed."""
        began_s = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait_s) as connection:
            for part in parts:
                try:
                    connection.sendall(part)
                except OSError:
                    break
                connection.settimeout(gap_s or wait_s)
                if gap_s:
                    try:
                        return connection.recv(4096), time.monotonic() - began_s
                    except TimeoutError:
                        continue
                    except OSError:
                        break
            connection.settimeout(wait_s)
            try:
                return connection.recv(4096), time.monotonic() - began_s
            except ConnectionError:
                return b"", time.monotonic() - began_s


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_experts: dict[str, Path]) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    running = Served(write_spec(folder, base=toy_base, experts=toy_experts, serve=SERVE))
    yield running
    running.process.kill()
    running.process.wait()


POST = (
    f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
).encode()


def test_one_line_says_what_is_served(served: Served) -> None:
    assert served.line.startswith("toys at http://127.0.0.1:")
    assert "base, attention, everything; for alice (answers logprobs)" in served.line


@pytest.mark.parametrize(
    "parts",
    [[b""], [b"GET /health HT"], [b"GET /health HTTP/1.1\r\n", *[b"X: y\r\n"] * 40]],
    ids=["silent", "half a line", "drop by drop"],
)
def test_slow_headers_are_cut_off(served: Served, parts: list[bytes]) -> None:
    answer, seconds = served.send(*parts, gap_s=0.2)
    assert (answer, 0.5 < seconds < 10) == (b"", True)


def test_a_connection_that_was_used_may_not_be_slow_either(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=15) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            answer += connection.recv(4096)
        began_s = time.monotonic()
        connection.sendall(b"GET /hea")
        assert connection.recv(4096) == b""
        assert time.monotonic() - began_s < 10


def test_slow_and_large_bodies_are_refused(served: Served) -> None:
    answer, seconds = served.send(POST, *[b"{"] * 40, gap_s=0.2)
    assert answer.startswith(b"HTTP/1.1 408")
    assert seconds < 10
    large = POST.replace(b"1000", b"99999999999999999999")
    assert served.send(large)[0].startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
    assert served.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n")[0].startswith(b"HTTP/1.1 400")
    assert served.send(b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n")[0][:12] in (
        b"HTTP/1.1 400",
        b"HTTP/1.1 431",
        b"",
    )


def test_slow_strangers_lock_nobody_out(served: Served) -> None:
    strangers = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(60)]
    for stranger in strangers:
        stranger.sendall(b"GET /v1/mod")
    answer = httpx2.get(f"http://127.0.0.1:{served.port}/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    for stranger in strangers:
        stranger.close()


def test_sigterm_answers_what_was_asked_and_ends(served: Served) -> None:
    """The last test: it ends the service."""
    api = httpx2.Client(
        base_url=f"http://127.0.0.1:{served.port}", headers={"Authorization": f"Bearer {KEY}"}, timeout=60
    )
    question = {"model": "base", "prompt": ["a secret prompt"] * 8, "max_tokens": 12, "temperature": 0}
    answers = list[int]()
    asking = threading.Thread(target=lambda: answers.append(api.post("/v1/completions", json=question).status_code))
    half = socket.create_connection(("127.0.0.1", served.port))
    half.sendall(b"GET /hea")
    asking.start()
    time.sleep(0.5)
    began_s = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(40) == 0
    asking.join()
    half.close()
    assert answers == [200]
    assert time.monotonic() - began_s < 40
    lines = [json.loads(line) for line in served.log.read_text().splitlines() if line.startswith("{")]
    assert [line["status"] for line in lines if line.get("path") == "/v1/completions"][-1] == 200
    written = served.log.read_text()
    assert KEY not in written
    assert "secret" not in written
    assert "Traceback" not in written


@pytest.mark.engine
def test_vllm_is_served_from_its_thread(tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path]) -> None:
    """Two merges by turns: each is answered as at first, and the process ends as it should."""
    engine = "{kind: vllm, dtype: float32, max_model_len: 256, kv_cache_gb: 0.2}"
    spec = write_spec(tmp_path, base=toy_base, experts=toy_experts, serve=SERVE, tasks="")
    spec.write_text(spec.read_text().replace("{kind: transformers}", engine))
    running = Served(spec)
    try:
        headers = {"Authorization": f"Bearer {KEY}"}
        api = httpx2.Client(base_url=f"http://127.0.0.1:{running.port}", headers=headers, timeout=120)
        recipes = [recipe_of(api, weight) for weight in (0.2, 0.8)]
        models = [api.post("/v1/merges", json={"recipe": recipe}).json()["id"] for recipe in recipes]
        first: dict[str, object] = {}
        for model in models * 3:
            question = {"model": model, "prompt": ["one", "two"], "max_tokens": 4, "temperature": 0, "logprobs": 1}
            choices = api.post("/v1/completions", json={**question, "prompt_logprobs": 0}).json()["choices"]
            assert first.setdefault(model, choices) == choices
        assert first[models[0]] != first[models[1]]
        running.process.terminate()
        assert running.process.wait(60) == 0
    finally:
        running.process.kill()
        running.process.wait()
