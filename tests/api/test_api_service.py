"""The engine `api` against crossbreed's own service around tiny real models: the same trials as with local weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from api_specs import spec_over

from crossbreed.fitness import (
    Generate,
    Loglikelihood,
    Prompt,
    Publishes,
    TransformersConfig,
    build_engine,
    build_recipe_engine,
)
from crossbreed.fitness.engines.api.config import ApiConfig
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs import load_spec, run
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read

pytest.importorskip("fastapi")


API = {"kind": "api", "url": "http://service.test", "key_env": "ALICE_KEY"}


class AppTransport(httpx2.BaseTransport):
    """An ASGI application as the network."""

    def __init__(self, app: Any) -> None:
        from starlette.testclient import TestClient

        self.client = TestClient(app)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        found = self.client.request(
            request.method, str(request.url), content=request.read(), headers=dict(request.headers)
        )
        return httpx2.Response(found.status_code, headers=found.headers, content=found.content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    texts = [json.dumps({"id": f"t{i}", "text": f"{i} birds sat on {7 * i} stones"}) for i in range(9)]
    picks = [json.dumps({"id": f"p{i}", "q": f"{i} or {i + 3}?", "o": ["one", f"n{i}"], "a": i % 2}) for i in range(9)]
    (folder / "texts.jsonl").write_text("\n".join(texts))
    (folder / "picks.jsonl").write_text("\n".join(picks))
    return folder


def spec_at(folder: Path, name: str, sources: Any, engine: dict[str, Any]) -> Path:
    spec = {
        "name": name,
        "seed": 5,
        "space": {"kind": "coefficients", "operator": "task_arithmetic", "groups": {"layers": 1, "modules": ["mlp"]}},
        "optimizer": {"kind": "cma_es", "budget": {"trials": 2}, "options": {"popsize": 4}},
        "fitness": {
            "engine": engine,
            "tasks": [
                {"name": "texts", "kind": "perplexity", "items": "texts.jsonl", "chunk": 4},
                {"name": "picks", "kind": "choice", "items": "picks.jsonl", "prompt": "{q} ", "choices": "o"}
                | {"answer": "a", "chunk": 4},
                {"name": "says", "kind": "generate", "items": "picks.jsonl", "prompt": "say {q} ", "answer": "q"}
                | {"max_tokens": 10, "metric": "exact_match"},
            ],
            "objectives": [{"task": "texts", "minimize": True}],
            "split": {"search": 3, "select": 3, "report": 3},
        },
        "workers": {"executor": "local"},
    }
    if sources is not None:
        spec["sources"] = sources
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def local(folder: Path, toy_base: Path, toy_experts: dict[str, Path]) -> Path:
    """A run with the weights on this machine."""
    sources = {"base": str(toy_base), "experts": {name: str(path) for name, path in toy_experts.items()}}
    path = spec_at(folder, "local", sources, {"kind": "transformers", "dtype": "float32"})
    run(load_spec(path), folder / "local")
    return folder / "local"


@pytest.fixture(scope="module")
def served(folder: Path, toy_base: Path, toy_experts: dict[str, Path]) -> Iterator[AppTransport]:
    """The same weights behind a service."""
    from crossbreed.runs.spec.provider import load_provider_spec
    from crossbreed.service.app import build_app
    from crossbreed.service.serving import opened_service

    token = {"key_env": "ALICE_KEY", "rights": ["answers", "logprobs", "scores", "publish"]}
    spec = {
        "sources": {"base": str(toy_base), "experts": {name: str(path) for name, path in toy_experts.items()}},
        "fitness": {
            "engine": {"kind": "transformers", "dtype": "float32"},
            "tasks": [{"name": "secret", "kind": "perplexity", "items": "texts.jsonl"}],
        },
        "serve": {"merges_kept": 2, "checkpoints": "written", "tokens": {"alice": token}},
    }
    (folder / "provider.yaml").write_text(yaml.safe_dump(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALICE_KEY", "sk-canary-0123456789")
        with opened_service(load_provider_spec(folder / "provider.yaml")) as service:
            yield AppTransport(build_app(service))


def trials_of(out: Path) -> dict[int, Any]:
    trials = fold(read(out / "journal.jsonl")).trials
    return {n: (trial.recipe.id, {t: s.values for t, s in trial.score.tasks.items()}) for n, trial in trials.items()}


@pytest.mark.slow
def test_trials_are_those_of_local_weights(folder: Path, local: Path, served: AppTransport) -> None:
    path = spec_at(folder, "api", None, API)
    run(spec_over(path, served), folder / "api")
    ours, theirs = trials_of(folder / "api"), trials_of(local)
    assert ours.keys() == theirs.keys()
    for number, (recipe, tasks) in theirs.items():
        assert ours[number][0] == recipe
        for name, values in tasks.items():
            assert ours[number][1][name] == pytest.approx(values, abs=1e-3)
    assert len({tasks["texts"] for _, tasks in ours.values()}) > 5, "the recipes differ"


def test_chunks_are_answered_as_by_the_engine_behind_the_service(served: AppTransport, toy_base: Path) -> None:
    """Texts and continuations, drawn ones, alternatives and scored prompts; of a merge, and of the base by its name."""
    from crossbreed.testing.toys import load_weights

    local = build_engine(TransformersConfig(kind="transformers"), toy_base)
    config = ApiConfig.model_validate(API).over(served)
    structure = config.describe_sources("", {})
    remote = build_recipe_engine(config)
    recipe = weighted_deltas({}, hashes=structure.hashes, dtype=structure.dtype)
    handle = remote.adopt(recipe)
    base = local.adopt(recipe, iter(sorted(load_weights(toy_base).items())))
    text = Prompt(text="3 birds sat")
    requests = [
        Generate(prompt=text, max_tokens=5, scores_prompt=True, alternatives=3),
        Generate(prompt=text, max_tokens=3, stop=("e",)),
        Loglikelihood(prompt=text, continuation=" on 7 stones"),
        Loglikelihood(prompt=Prompt(text=""), continuation="Once upon"),
        Generate(prompt=text, max_tokens=4, temperature=1.0, seed=4),
        Generate(prompt=Prompt(text="", token_ids=(5, 6, 7)), max_tokens=2, use_cache=False),
    ]
    for ours, theirs in zip(handle.answer(requests), base.answer(requests), strict=True):
        assert (ours.text, ours.token_ids, ours.ended) == (theirs.text, theirs.token_ids, theirs.ended)
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
        assert ours.prompt_tokens == theirs.prompt_tokens
        assert [[*place] for place in ours.alternatives] == [[*place] for place in theirs.alternatives]
        assert (ours.prompt is None) == (theirs.prompt is None)
        if ours.prompt and theirs.prompt:
            assert ours.prompt.token_ids == theirs.prompt.token_ids
            assert ours.prompt.logprobs == pytest.approx(theirs.prompt.logprobs, abs=1e-5)
    local.close()
    remote.close()


@pytest.mark.slow
def test_the_provider_s_task_and_its_checkpoints(folder: Path, served: AppTransport) -> None:
    path = spec_at(folder, "secrets", None, API)
    raw = yaml.safe_load(path.read_text())
    raw["fitness"]["tasks"] = [{"kind": "remote", "name": "secret", "minimize": True}]
    raw["fitness"]["objectives"] = [{"task": "secret", "minimize": True}]
    path.write_text(yaml.safe_dump(raw))
    run(spec_over(path, served), folder / "secrets")
    values = {number: tasks["secret"] for number, (_, tasks) in trials_of(folder / "secrets").items()}
    assert len(set(values.values())) > 5
    config = ApiConfig.model_validate(API).over(served)
    config.describe_sources("", {})
    engine = build_recipe_engine(config)
    trial = fold(read(folder / "secrets/journal.jsonl")).trials[4]
    assert isinstance(engine, Publishes)
    name, fingerprint = engine.publish(trial.recipe)
    assert fingerprint == trial.score.fingerprint
    assert (folder / "written" / name / "config.json").exists()
    engine.close()
