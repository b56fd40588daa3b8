"""The provider's own tasks and checkpoints, and what clients are told of sources."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
import yaml
from service_client import Connect, account, merge, recipe_of, refused
from starlette.testclient import TestClient

from crossbreed.errors import InputError
from crossbreed.fitness import SplitConfig, TransformersConfig, evaluate_tasks, wire
from crossbreed.fitness.items import SearchItems
from crossbreed.kernels import fingerprint_checkpoint
from crossbreed.recipes import parse_recipe
from crossbreed.runs.spec.provider import Provided, load_provider_spec
from crossbreed.runs.spec.serve import ServeConfig
from crossbreed.service.core import Service
from crossbreed.service.provider import open_provider
from crossbreed.service.writer import in_slices
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


def test_a_task_whose_items_are_split_otherwise_is_another(provided: Provided) -> None:
    """A client that is told means alone must see that they are of other items, be they as many."""

    found = set[str]()
    for sizes in (None, (2, 1, 2), (2, 1, 1), (1, 2, 2)):
        split = sizes and SplitConfig(search=sizes[0], select=sizes[1], report=sizes[2])
        config = ServeConfig(detail="aggregate", split=split or None)
        found.add(open_provider(replace(provided, serve=config)).contents["text"])
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


def test_a_mean_for_each_split(opened: Service, provided: Provided, connect: Connect) -> None:
    """Its parts are disjoint, and its standard error is that of the items' values."""
    config = ServeConfig(detail="aggregate", split=SplitConfig(search=2, select=1, report=2))
    tasks = list(opened.provider.tasks.values())
    parts = open_provider(replace(provided, serve=config)).splits
    assert {split: len(items) for split, items in parts["text"].items()} == {"search": 2, "select": 1, "report": 2}
    ids = [item.id for items in parts["sums"].values() for item in items]
    assert sorted(ids) == sorted(item.id for item in opened.provider.items["sums"])
    assert {name: [i.id for i in items] for name, items in parts["sums"].items()} == {
        name: [i.id for i in items] for name, items in parts["text"].items()
    }, "tasks with the same items are split alike"
    values = connect().post("/v1/evaluations", json={"model": "base", "task": "text"}).json()["values"]
    value_of = dict(zip((item.id for item in opened.provider.items["text"]), values, strict=True))
    client = connect(splits=parts, detail="aggregate")
    told = client.get("/v1/sources").json()["tasks"]
    assert [(task["items"], task["splits"]["report"]) for task in told] == [(None, 2)] * len(tasks)
    for split, items in parts["text"].items():
        question = {"model": "base", "task": "text", "split": split}
        found = wire.Evaluation.model_validate(client.post("/v1/evaluations", json=question).json())
        own = [value_of[item.id] for item in items]
        assert (found.values, found.split, found.count) == (None, split, len(own))
        assert found.mean == pytest.approx(fmean(own))
        assert found.standard_error == (pytest.approx(stdev(own) / len(own) ** 0.5) if len(own) > 1 else None)
    refused(client.post("/v1/evaluations", json={**question, "items": ["i1"]}), 400, word="not both")
    refused(client.post("/v1/evaluations", json={**question, "split": "all"}), 400)
    refused(connect().post("/v1/evaluations", json=question), 400, word="splits no items")


def test_splits_go_with_aggregates(provided: Provided) -> None:
    with pytest.raises(ValueError, match="`split` goes with `detail: aggregate`"):
        ServeConfig(split=SplitConfig(search=1, select=1, report=1))
    config = ServeConfig(detail="aggregate", split=SplitConfig(search=9, select=1, report=1))
    with pytest.raises(InputError, match=r"(?s)too few items for the split.*serve\.split"):
        open_provider(replace(provided, serve=config))


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


def test_inner_products_and_checkpoints_come_in_slices(opened: Service, connect: Connect) -> None:
    """While one client's checkpoint is being made, another's requests are answered between its tensors."""
    provider = replace(opened.provider, products=None, _multiplied={})
    client = connect()
    weights = provider.weights
    assert weights is not None
    slices = 0
    while provider.products is None:
        provider.multiply(0.0)
        slices += 1
    assert slices >= len(provider.structure.tensors)
    assert client.get("/v1/sources/inner_products").json() == json.loads(provider.products.model_dump_json())
    before = opened.engine.num_adopted
    recipe = parse_recipe(recipe_of(client, 0.35))
    stream = in_slices(opened.engine, lambda: weights.materialize(recipe), seconds=0.0)
    names, answered = list[str](), list[int]()
    for name, _ in stream:
        names.append(name)
        question = {"model": "base", "prompt": "a", "max_tokens": 1}
        answered.append(client.post("/v1/completions", json=question).status_code)
    assert names == sorted(provider.structure.tensors)
    assert set(answered) == {200}
    assert opened.engine.num_adopted <= before + 1, "the engine keeps its merge meanwhile"


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
