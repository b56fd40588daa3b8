"""The provider's own tasks and checkpoints, and what clients are told of sources."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from service_client import Connect, account, merge, recipe_of, refused
from starlette.testclient import TestClient

from crossbreed.fitness import TransformersConfig, evaluate_tasks, wire
from crossbreed.fitness.items import SearchItems
from crossbreed.kernels import fingerprint_checkpoint
from crossbreed.recipes import parse_recipe
from crossbreed.runs.spec.provider import load_provider_spec
from crossbreed.service.core import Service
from crossbreed.service.provider import open_provider
from crossbreed.sources import Structure

TASKS = ["sums", "text"]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_scored_as_without_http(client: TestClient, opened: Service, name: str) -> None:
    model, provider = merge(client), opened.provider
    task, items = provider.tasks[name], provider.items[name]
    recipe = parse_recipe(recipe_of(client))
    work = opened.engine.submit(
        recipe, lambda adopted: evaluate_tasks(adopted.handle, [task], {name: SearchItems(items)}), owner="test"
    )
    expected = work.result().tasks[name]
    found = wire.Evaluation.model_validate(client.post("/v1/evaluations", json={"model": model, "task": name}).json())
    assert (found.values, found.mean, found.count) == (expected.values, pytest.approx(expected.mean), 5)
    assert found.fingerprint == client.post("/v1/merges", json={"recipe": recipe.to_json()}).json()["fingerprint"]
    assert found.content == provider.contents[name] != provider.contents[TASKS[name == TASKS[0]]]
    some = {"model": model, "task": name, "items": ["i3", "i0", "i4"]}
    assert client.post("/v1/evaluations", json=some).json()["values"] == [expected.values[n] for n in (3, 0, 4)]


def test_a_service_says_what_its_answers_depend_on(opened: Service, client: TestClient) -> None:
    """Of the engine's settings and of its tasks, so that clients see when it is another."""
    told = wire.Sources.model_validate(client.get("/v1/sources").json()).abilities
    made = wire.Merge.model_validate(client.post("/v1/merges", json={"recipe": recipe_of(client)}).json())
    assert (made.host, made.engine) == (told.host, told.engine) == (opened.provider.host_hash, told.engine)
    other = replace(opened.provider, engine=TransformersConfig(kind="transformers", dtype="bfloat16"))
    assert other.engine_hash != opened.provider.engine_hash == told.engine


def test_a_task_that_is_asked_or_scored_otherwise_is_another(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"id": "1", "q": "one", "a": "1"}\n')
    (tmp_path / "others.jsonl").write_text('{"id": "1", "q": "one", "a": "2"}\n')
    found = set[str]()
    for change in ("", ", stop: [x]", ', prompt: "Q: {q}"', ", items: others.jsonl"):
        task = "{name: t, kind: generate, items: items.jsonl, prompt: '{q}', answer: a}"
        keys = yaml.safe_load(task) | yaml.safe_load("{" + change.removeprefix(", ") + "}")
        (tmp_path / "spec.yaml").write_text(
            "sources: {base: fake/base, experts: {one: fake/one}}\n"
            f"fitness: {{engine: {{kind: fake_recipes}}, tasks: [{json.dumps(keys)}]}}\n"
        )
        found.add(open_provider(load_provider_spec(tmp_path / "spec.yaml")).contents["t"])
    assert len(found) == 4


def test_wrong_tasks_and_items_are_refused(client: TestClient) -> None:
    refused(client.post("/v1/evaluations", json={"model": "base", "task": "x"}), 404, "task_not_found")
    for items in ([], ["i9"], ["i1", "i1"]):
        refused(client.post("/v1/evaluations", json={"model": "base", "task": "sums", "items": items}), 400)
    refused(client.post("/v1/evaluations", json={"model": "x", "task": "sums"}), 404, "model_not_found")


def test_aggregates_alone_hide_items(connect: Connect) -> None:
    client = connect(detail="aggregate")
    [told, _] = client.get("/v1/sources").json()["tasks"]
    assert (told["items"], told["count"]) == (None, 5)
    found = client.post("/v1/evaluations", json={"model": "base", "task": "text"}).json()
    assert (found["values"], found["count"]) == (None, 5)
    one = {"model": "base", "task": "text", "items": ["i1"]}
    refused(client.post("/v1/evaluations", json=one), 400, word="mean of all items")


def test_scores_need_their_right(connect: Connect) -> None:
    client = connect(account("bob", "k" * 20, rights=("answers",)))
    assert client.get("/v1/sources").json()["tasks"] == []
    refused(client.post("/v1/evaluations", json={"model": "base", "task": "sums"}), 403, "no_right")
    client = connect(account("carol", "k" * 20, rights=("scores",)))
    assert client.post("/v1/evaluations", json={"model": merge(client), "task": "sums"}).status_code == 200
    refused(client.post("/v1/completions", json={"model": "base", "prompt": "a"}), 403, "no_right")


def test_sources_are_what_both_sides_read(client: TestClient, opened: Service) -> None:
    told = wire.Sources.model_validate(client.get("/v1/sources").json())
    structure = Structure.from_json(told.structure)
    assert structure == opened.provider.structure
    assert (told.abilities.deterministic, told.abilities.batch_invariant) == (True, True), "transformers, one by one"
    assert told.abilities.max_model_len == 512
    assert [task.name for task in told.tasks] == TASKS
    assert told.tasks[1].higher_is_better is opened.provider.tasks["text"].higher_is_better
    products = wire.InnerProducts.model_validate(client.get("/v1/sources/inner_products").json())
    weights = opened.provider.weights
    assert weights is not None
    total = sum(np.array(matrix) for matrix in products.tensors.values())
    assert np.allclose(total, weights.inner_products(products.tensors))


def test_a_checkpoint_is_what_answered(client: TestClient, opened: Service) -> None:
    model = merge(client, 0.7)
    found = wire.Checkpoint.model_validate(client.post("/v1/checkpoints", json={"model": model}).json())
    folder = Path(str(opened.config.checkpoints)) / found.name
    assert found.id == model
    assert fingerprint_checkpoint(folder) == found.fingerprint
    assert json.loads((folder / "crossbreed.json").read_text())
    assert "/" not in found.name
    written = (folder / "crossbreed.json").stat().st_mtime_ns
    assert client.post("/v1/checkpoints", json={"model": model}).json()["name"] == found.name
    assert (folder / "crossbreed.json").stat().st_mtime_ns == written
    record = json.loads((folder / "crossbreed.json").read_text())
    (folder / "crossbreed.json").write_text(json.dumps({**record, "fingerprint": "of other weights"}))
    refused(client.post("/v1/checkpoints", json={"model": model}), 500, "engine_error")


def test_checkpoints_need_their_right_and_a_folder(connect: Connect) -> None:
    client = connect(account("bob", "k" * 20, rights=("answers",)))
    refused(client.post("/v1/checkpoints", json={"model": "base"}), 403, "no_right")
    refused(connect(checkpoints=None).post("/v1/checkpoints", json={"model": "base"}), 404, "not_offered")
