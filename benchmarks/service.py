"""The merge service under load, and its cost over the engine alone: real process, real sockets, tiny or given models.

python -m benchmarks.service --minutes 5 --clients 32 [--spec SPEC.yaml]
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

from crossbreed.fitness import Generate, Prompt
from crossbreed.runs.spec.provider import load_provider_spec
from crossbreed.service.provider import open_provider

KEYS = {f"LOAD_KEY_{number}": f"load-key-{number:04}-0123456789" for number in range(4)}
PROMPTS = ["One and one are", "The capital of France is", "Once upon a time", "Two and two are"]
OK = (200, 429, 503)


@dataclass
class Load:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """Of answers with 200."""
    wrong: int = 0
    """Answers that are not those of the client's own merge."""


def toy_spec(folder: Path) -> Path:
    """Writes tiny models and a provider's spec."""
    from crossbreed.testing.toys import make_checkpoint, make_expert

    base = make_checkpoint(folder / "base")
    for seed, name in enumerate(("one", "two"), 1):
        make_expert(folder / name, base=base, seed=seed)
    tokens = {
        name.lower(): {"key_env": name, "rights": ["answers", "logprobs"], "requests_per_minute": 6000} for name in KEYS
    }
    spec = {
        "name": "load",
        "sources": {"base": str(base), "experts": {"one": str(folder / "one"), "two": str(folder / "two")}},
        "fitness": {"engine": {"kind": "transformers"}},
        "serve": {"port": 0, "queue": 6, "tokens": tokens},
    }
    (folder / "load.yaml").write_text(json.dumps(spec))
    return folder / "load.yaml"


@contextmanager
def served(spec: Path) -> Iterator[tuple[psutil.Process, str]]:
    """Yields the service's process and address."""
    with spec.with_name("log.jsonl").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "crossbreed.cli", "serve", str(spec)],
            env={**os.environ, **KEYS},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        found = re.search(r"(http://\S+)/v1", process.stdout.readline())
        assert found, spec.with_name("log.jsonl").read_text()
        try:
            yield psutil.Process(process.pid), found[1]
        finally:
            process.terminate()
            process.wait(60)


def recipe_of(hashes: dict[str, str], weight: float) -> dict[str, Any]:
    one, two = [name for name in hashes if name != "base"][:2]
    rule = {"match": ".*", "operator": "task_arithmetic", "params": {"weight": {one: weight, two: 1 - weight}}}
    return {"schema": 1, "base": "base", "sources": hashes, "rules": [rule]}


def hashes_of(structure: dict[str, Any]) -> dict[str, str]:
    return {"base": structure["base"]["hash"], **{one["name"]: one["hash"] for one in structure["experts"]}}


async def client(url: str, number: int, until_s: float, load: Load) -> None:
    """Names a merge of its own, and asks it until the time is over."""
    key = [*KEYS.values()][number % len(KEYS)]
    async with httpx2.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=300) as api:
        hashes = hashes_of((await api.get("/v1/sources")).json()["structure"])
        body = {"recipe": recipe_of(hashes, (number % 8) / 8)}
        model, first = None, None
        while time.monotonic() < until_s:
            began_s = time.monotonic()
            if model is None:
                answer = await api.post("/v1/merges", json=body)
                model = answer.json()["id"] if answer.status_code == 200 else None
            else:
                question = {"model": model, "prompt": PROMPTS, "max_tokens": 4, "temperature": 0, "logprobs": 0}
                answer = await api.post("/v1/completions", json=question)
                if answer.status_code == 200:
                    choices = answer.json()["choices"]
                    first = first or choices
                    load.wrong += choices != first
            load.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                load.seconds.append(time.monotonic() - began_s)
            else:
                await asyncio.sleep(min(1.0, float(answer.headers.get("Retry-After", 1))))


async def loaded(process: psutil.Process, url: str, *, clients: int, minutes: float) -> tuple[Load, list[float]]:
    """Returns what the clients saw, and the process's memory over time, in MB."""
    load, memory, until_s = Load(), list[float](), time.monotonic() + 60 * minutes
    asking = [asyncio.create_task(client(url, number, until_s, load)) for number in range(clients)]
    while time.monotonic() < until_s:
        memory.append(process.memory_info().rss / 1e6)
        await asyncio.sleep(1)
    await asyncio.gather(*asking)
    return load, memory


def overhead(spec: Path, url: str, *, chunk: int, rounds: int, max_tokens: int) -> tuple[float, float]:
    """Returns the median seconds of one chunk: of the engine alone, and through the service."""
    prompts = (PROMPTS * chunk)[:chunk]
    key = next(iter(KEYS.values()))
    question = {"model": "base", "prompt": prompts, "max_tokens": max_tokens, "temperature": 0, "logprobs": 0}
    provider = open_provider(load_provider_spec(spec))
    engine = provider.start()
    requests = [Generate(prompt=Prompt(text=text), max_tokens=max_tokens) for text in prompts]
    adopted = engine.adopt(provider.base_recipe)
    alone, through = list[float](), list[float]()
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=600) as api:
        for _ in range(rounds):  # by turns: another process may make both slower
            through.append(_timed(lambda: api.post("/v1/completions", json=question).raise_for_status()))
            alone.append(_timed(lambda: adopted.handle.answer(requests)))
    engine.close()
    return statistics.median(alone), statistics.median(through)


def _timed(call: Any) -> float:
    began_s = time.perf_counter()
    call()
    return time.perf_counter() - began_s


def main() -> None:
    """Prints statuses, latencies, memory and overhead; exits with 1 if something else than 200, 429 or 503 came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--spec", type=Path, help="A provider's spec with clients of the keys LOAD_KEY_0 to 3.")
    parser.add_argument("--chunk", type=int, default=32, help="Prompts in a chunk, for the overhead.")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    os.environ |= KEYS
    with tempfile.TemporaryDirectory() as scratch:
        spec = given.spec or toy_spec(Path(scratch))
        with served(spec) as (process, url):
            load, memory = asyncio.run(loaded(process, url, clients=given.clients, minutes=given.minutes))
            seconds = sorted(load.seconds)
            quantiles = {
                f"p{q}": round(seconds[min(len(seconds) - 1, len(seconds) * q // 100)], 3) for q in (50, 90, 99)
            }
            print(
                f"{given.clients} clients, {given.minutes:g} minutes: {dict(load.statuses)}, wrong answers {load.wrong}"
            )
            print(f"seconds of an answer: {quantiles}")
            settled = memory[len(memory) // 5 :]
            print(f"memory, MB: first {memory[0]:.0f}, after a fifth {settled[0]:.0f}, last {settled[-1]:.0f}")
            alone, through = overhead(spec, url, chunk=given.chunk, rounds=given.rounds, max_tokens=given.max_tokens)
            more = through / alone - 1
            print(f"a chunk of {given.chunk}: engine alone {alone:.3f} s, served {through:.3f} s ({more:+.1%})")
    sys.exit(0 if load.wrong == 0 and set(load.statuses) <= set(OK) else 1)


if __name__ == "__main__":
    main()
