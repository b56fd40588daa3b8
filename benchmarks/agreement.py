"""Does a published checkpoint answer as it was scored? `python -m benchmarks.agreement RUN MODEL [--json]`.

Compares, on the run's own search items (gold answers scored token by token, and greedy answers):
  swapped   vLLM started on the base, the winner's recipe streamed in: what the search used
  fresh     vLLM started on the published folder
  and both engines in float32, and transformers in the run's dtype and in float32.
Each engine runs in a process of its own: a process does not give an engine's memory back.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import cast

from pydantic import TypeAdapter

from crossbreed.fitness import AnyEngineConfig, EngineConfig, build_engine
from crossbreed.fitness.engines.handle import HoldsOne
from crossbreed.fitness.requests import Generate, Loglikelihood, Request, Response
from crossbreed.kernels import materialize
from crossbreed.recipes import load_recipe
from crossbreed.runs import Plan, build_plan, load_spec
from crossbreed.sources import open_sources
from crossbreed.types import Recipe

NUM_ITEMS = 32
"""Of each task; one chunk."""


def requests_of(plan: Plan) -> list[list[Request]]:
    """Chunks: each task's questions as the search asks them, then its gold answers as continuations."""
    chunks: list[list[Request]] = []
    for task in plan.tasks:
        items = plan.items["search"][task.name].items[:NUM_ITEMS]
        asked = [request for item in items for request in task.requests(item)]
        chunks.append(asked)
        if isinstance(asked[0], Generate):
            golds = zip(asked, items, strict=True)
            chunks.append([Loglikelihood(prompt=r.prompt, continuation=f" {task.kind.shown(i)}\n") for r, i in golds])
    return chunks


def answers(run: Path, model: Path, *, engine: dict[str, object], swapped: bool) -> list[Response]:
    """Answers of one engine: vLLM started on the base with the recipe streamed in, or any started on the model."""
    plan = build_plan(load_spec(run / "spec.yaml"))
    config = TypeAdapter[EngineConfig](AnyEngineConfig).validate_python(engine)
    started = build_engine(config, plan.weights.sources.base.path if swapped else model)
    if swapped:
        recipe = load_recipe(model / "recipe.yaml")
        started.adopt(recipe, materialize(recipe, plan.weights.sources))
    elif config.kind == "transformers":  # it starts without weights
        published = open_sources(str(model), {})
        whole = Recipe(base="base", sources=published.structure.hashes, rules=(), dtype=config.dtype)
        started.adopt(whole, materialize(whole, published))
    return [response for chunk in requests_of(plan) for response in cast(HoldsOne, started).answer(chunk)]


def gaps(some: Sequence[Response], others: Sequence[Response]) -> dict[str, float]:
    """Differences a token, up to where two answers part, and the part of answers with equal tokens."""
    differences = []
    for one, other in zip(some, others, strict=True):
        for a, b, p, q in zip(one.token_ids, other.token_ids, one.logprobs, other.logprobs, strict=False):
            if a != b:
                break
            differences.append(abs(p - q))
    equal = [one.token_ids == other.token_ids for one, other in zip(some, others, strict=True)]
    return {"max": max(differences), "mean": fmean(differences), "equal_tokens": fmean(equal), "n": len(differences)}


def measure(run: Path, model: Path) -> dict[str, dict[str, float]]:
    """Returns the comparisons by name."""
    used = load_spec(run / "spec.yaml").fitness.engine.model_dump()
    dtype = used["dtype"]
    plain = {"kind": "transformers", "max_model_len": used["max_model_len"]}
    wanted = {
        "swapped": used,
        "fresh": used,
        "vllm_fp32": used | {"dtype": "float32"},
        "transformers": plain | {"dtype": dtype},
        "transformers_fp32": plain | {"dtype": "float32"},
    }
    found = {}
    for name, engine in wanted.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            job = process.submit(answers, run, model, engine=engine, swapped=name == "swapped")
            found[name] = job.result()
    return {
        "fresh engine against swapped": gaps(found["fresh"], found["swapped"]),
        "float32: vLLM against transformers": gaps(found["vllm_fp32"], found["transformers_fp32"]),
        f"{dtype}: vLLM against transformers": gaps(found["fresh"], found["transformers"]),
        f"transformers: {dtype} against float32": gaps(found["transformers"], found["transformers_fp32"]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = measure(arguments.run, arguments.model)
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        for name, gap in results.items():
            print(f"{name:40} max {gap['max']:.2e}  mean {gap['mean']:.2e}  equal answers {gap['equal_tokens']:.1%}")
