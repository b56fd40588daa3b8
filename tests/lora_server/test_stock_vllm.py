"""Two stock vLLM servers on CPU: adapters answer as merges do, a search runs over both, NaN is told. Minutes."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from server_specs import engine_of, write_spec

from crossbreed.errors import InvalidWeights, ServiceOutage
from crossbreed.fitness import Generate, Loglikelihood, Prompt, TransformersConfig, build_adapter_engine, build_engine
from crossbreed.fitness.engines.lora_server.engine import LoraServerEngine
from crossbreed.fitness.engines.lora_server.settings import LoraServerConfig
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs import load_spec, run
from crossbreed.runs.results.show import open_run
from crossbreed.runs.weights import Weights
from crossbreed.runs.workers.adapter_engine import CandidateEngineByAdapter
from crossbreed.sources import open_sources
from crossbreed.testing.toys import make_adapter, make_checkpoint
from crossbreed.types import Status, Trial

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(1800)]
_START_S = 900.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "base", num_layers=2, dtype=torch.float32)


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    return {name: make_adapter(base.with_name(name), base=base, seed=seed) for seed, name in enumerate("ab", 1)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def urls(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The addresses of two servers."""
    logs = tmp_path_factory.mktemp("logs")
    ports, processes = [_free_port(), _free_port()], []
    for port in ports:
        command = [
            *(sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", str(base)),
            *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "512"),
            *("--enforce-eager", "--kv-cache-memory-bytes", str(50_000_000)),
            *("--enable-lora", "--max-loras", "2", "--max-lora-rank", "16"),
        ]
        settings = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        with (logs / f"{port}.txt").open("w") as log:
            processes.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **settings, "OMP_NUM_THREADS": "1"},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    try:
        for port, process in zip(ports, processes, strict=True):
            _wait(port, process, logs / f"{port}.txt")
        yield [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


def trials_of(folder: Path) -> dict[int, Trial]:
    return {trial.number: trial for trial in open_run(folder).trials}


def test_a_search_over_two_stock_servers_scores_as_local_merges_do(
    urls: list[str], base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    began_s = time.monotonic()
    spec = write_spec(
        tmp_path / "s", base=base, experts=adapters, engine=engine_of(urls, patience=60.0, scores_together=False)
    )
    run(load_spec(spec), tmp_path / "run")
    print(f"search over two servers: {time.monotonic() - began_s:.0f} s")
    local = write_spec(tmp_path / "l", base=base, experts=adapters, engine={"kind": "transformers"})
    run(load_spec(local), tmp_path / "local")
    ours, theirs = trials_of(tmp_path / "run"), trials_of(tmp_path / "local")
    assert ours.keys() == theirs.keys()
    gaps = []
    for number, trial in ours.items():
        assert (trial.score.status, trial.recipe.id) == (Status.OK, theirs[number].recipe.id)
        for task in ("texts", "questions"):
            found, expected = (one.score.tasks[task].values for one in (trial, theirs[number]))
            gaps.append(max(abs(a - b) for a, b in zip(found, expected, strict=True)))
        seconds = {phase: round(s, 2) for phase, s in trial.score.cost.seconds.items()}
        print(f"trial {number}: {max(gaps[-2:]):.2g} from local scores; {seconds}")
    assert max(gaps) < 1e-3
    assert "canary:" not in (tmp_path / "run/log.txt").read_text(), "all could be verified"


def test_nan_is_invalid_and_a_spoilt_server_is_told(
    urls: list[str], base: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first token that is NaN spoils nothing; whole answers do, and on CPU servers need a restart after them."""
    weights = Weights(sources=open_sources(str(base), {name: str(path) for name, path in adapters.items()}))
    config = LoraServerConfig.model_validate(engine_of(urls, scores_together=False))
    engine = CandidateEngineByAdapter(build_adapter_engine(config, base), config, weights)
    loud = weighted_deltas({"a": 1e30}, hashes=weights.structure.hashes, dtype="float32")
    requests = [
        Loglikelihood(prompt=Prompt(text="one"), continuation=" two"),
        Generate(prompt=Prompt(text="three"), max_tokens=3),
    ]
    with pytest.raises(InvalidWeights, match=r"NaN or infinite$"):
        engine.adopt(loud)
    quiet = weighted_deltas({"a": 0.5}, hashes=weights.structure.hashes, dtype="float32")
    found = engine.adopt(quiet).handle.answer(requests)
    reference = build_engine(TransformersConfig(kind="transformers"), base)
    expected = reference.adopt(quiet, weights.materialize(quiet)).answer(requests)
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)

    monkeypatch.setattr(LoraServerEngine, "_first", lambda *_: None)
    handle = engine.adopt(loud).handle
    with pytest.raises(InvalidWeights, match="it is not used again") as caught:
        handle.answer(requests)
    print(caught.value)
    with pytest.raises(ServiceOutage, match="no server is left"):
        engine.adopt(quiet)
    engine.close()
