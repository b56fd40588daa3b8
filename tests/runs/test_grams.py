"""Grams from a spec to a published model: collected once, found again, made again, and refused where they differ."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_runs import journal_of, records_of, write_spec

from crossbreed.errors import InputError, InvalidWeights
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.fitness.engines.transformers import TransformersEngine
from crossbreed.kernels.artifacts.input_grams import InputGrams, InputGramSums
from crossbreed.kernels.linalg.sketch import Sketch
from crossbreed.recipes import dump_recipe
from crossbreed.runs import build_plan, load_spec, merge_recipe, publish_run, run
from crossbreed.runs.artifact_files import artifacts_of, install, keep, stored
from crossbreed.runs.plan import Plan
from crossbreed.runs.record.identity import check_same_run
from crossbreed.runs.workers import grams
from crossbreed.runs.workers.grams import prepare_grams
from crossbreed.testing.toys import make_expert
from crossbreed.types import Recipe, Rule

BMM = {
    "space__operator": "bmm",
    "space__params": {"weight": 0.5, "grams": "data", "lambda": [1e-3, 1e3]},
    "optimizer": {"kind": "gp", "budget": {"trials": 5}, "options": {"startup": 3}},
    "artifacts": {"grams": {"items": 4}},
}
QUERY = "model.layers.0.self_attn.q_proj.weight"
UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"


def grams_of(plan: Plan) -> InputGrams:
    [grams] = plan.weights.artifacts
    return grams


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "artifacts"


def spec(tmp_path: Path, toy_base: Path, experts: dict[str, Path], **changes: Any) -> Path:
    return write_spec(tmp_path / "spec", base=toy_base, experts=experts, **(BMM | changes))


def test_they_are_of_what_each_expert_gets(tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict) -> None:
    """Of the search items alone, of the expert's own weights, and of the matrices that an expert changes."""
    first, second = toy_adapters
    grams = {"items": 3, "tasks": {first: ["red"]}, "max_columns": 150, "rank": 20}
    plan = prepare_grams(build_plan(load_spec(spec(tmp_path, toy_base, toy_adapters, artifacts={"grams": grams}))))
    encoder, weights = Encoder(toy_base), load_file(toy_base / "model.safetensors")
    for name, tasks in ((first, ["red"]), (second, ["red", "blue"])):
        asked = [(task, item) for task in plan.tasks for item in plan.items["search"][task.name].items[:3]]
        requests = [task.calibration(item) for task, item in asked if task.name in tasks]
        ids = [token for request in requests for token in encoder.encode(request).token_ids]
        x_TN = weights["model.embed_tokens.weight"][ids].double()
        x_TN = x_TN * (x_TN.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        x_TN = x_TN * weights["model.layers.0.input_layernorm.weight"].double()
        expert = plan.weights.sources.experts[name].hash
        assert torch.allclose(grams_of(plan).of(expert, QUERY, 128).double(), x_TN.T @ x_TN / len(ids), atol=1e-4)
        assert isinstance(grams_of(plan).of(expert, DOWN, 192), Sketch)
        with pytest.raises(InputError):
            grams_of(plan).of(expert, "model.embed_tokens.weight", 128)


def test_each_expert_s_are_of_its_own_weights(tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict) -> None:
    """Answering the same items: after the first attention, what a matrix gets is the expert's own."""
    plan = prepare_grams(build_plan(load_spec(spec(tmp_path, toy_base, toy_adapters))))
    one, other = (expert.hash for expert in plan.weights.sources.experts.values())
    assert torch.allclose(grams_of(plan).of(one, QUERY, 128), grams_of(plan).of(other, QUERY, 128), atol=1e-4)
    assert not torch.allclose(grams_of(plan).of(one, UP, 128), grams_of(plan).of(other, UP, 128), atol=1e-2)


def test_they_are_collected_once_and_made_again_alike(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict
) -> None:
    loaded, events = load_spec(spec(tmp_path, toy_base, toy_adapters)), []
    first = prepare_grams(build_plan(loaded), on_event=events.append)
    assert [str(event).partition(",")[0] for event in events] == ["collecting Grams of plain"]
    again = prepare_grams(build_plan(loaded), on_event=events.append)
    assert len(events) == 1
    shutil.rmtree(cache)
    remade = prepare_grams(build_plan(loaded))
    for plan in (again, remade):
        assert plan.weights.artifacts[0] is not None
        assert plan.weights.artifacts[0].hash == first.weights.artifacts[0].hash
        assert plan.run_record().artifacts == {"grams": first.weights.artifacts[0].hash}
    files = sorted(path.name for path in cache.glob("*.safetensors"))
    assert len(files) == 2
    other = load_spec(spec(tmp_path, toy_base, toy_adapters, artifacts={"grams": {"items": 5}}))
    assert prepare_grams(build_plan(other)).weights.artifacts[0].hash != first.weights.artifacts[0].hash
    assert set(files) < {path.name for path in cache.glob("*.safetensors")}


def test_those_of_a_file_that_changed_meanwhile_are_not_kept(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later runs of these sources would take them for theirs."""
    own = {name: shutil.copytree(path, tmp_path / name) for name, path in toy_adapters.items()}
    plan = build_plan(load_spec(spec(tmp_path, toy_base, own)))
    observe = TransformersEngine.activations

    def meanwhile(self: TransformersEngine, *arguments: Any) -> None:
        observe(self, *arguments)
        next(iter(plan.weights.sources.experts["plain"].shards)).path.touch()

    monkeypatch.setattr(TransformersEngine, "activations", meanwhile)
    with pytest.raises(InputError, match="changed while it was in use"):
        prepare_grams(plan)
    assert not list(cache.glob("*.safetensors"))


def test_a_file_that_was_cut_off_is_collected_again(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict
) -> None:
    """As a power cut leaves one."""
    loaded = load_spec(spec(tmp_path, toy_base, toy_adapters))
    first = prepare_grams(build_plan(loaded))
    recipe = first.space.decode(first.space.domain.low)
    one, other = sorted(cache.glob("*.safetensors"))
    one.unlink()  # it is mapped: not to be cut where it lies
    one.touch()
    with pytest.raises(InputError, match="not on this machine"):
        artifacts_of(recipe)
    untouched = other.stat().st_mtime_ns
    assert prepare_grams(build_plan(loaded)).weights.artifacts[0].hash == first.weights.artifacts[0].hash
    assert other.stat().st_mtime_ns == untouched
    assert [grams.hash for grams in artifacts_of(recipe)] == [first.weights.artifacts[0].hash]


@pytest.mark.parametrize("damage", ["cut off", "another number", "NaN"])
def test_a_damaged_copy_is_replaced(tmp_path: Path, cache: Path, damage: str) -> None:
    """In the cache, where merges look for it, and in the run's folder, which outlives the cache."""
    cache.mkdir(parents=True)
    files = []
    for expert in ("one", "other"):
        sums = InputGramSums()
        sums.add(expert, QUERY, torch.ones(3, 4))
        sums.write(cache / f"{expert}.safetensors")
        files.append(cache / f"{expert}.safetensors")
    made, kept = InputGrams.open(*files), tmp_path / "run"
    keep(made, kept)
    install(made)
    for folder in (kept, cache):
        copy = folder / f"{made.hash}-0.safetensors"
        content = copy.read_bytes()
        copy.unlink()  # it is mapped: not to be changed where it lies
        end = {"cut off": b"", "another number": b"\0\0\0\0", "NaN": b"\xff\xff\xff\xff"}[damage]
        copy.write_bytes(content[:-4] + end)
    assert stored(InputGrams, made.hash, kept=kept) is None
    keep(made, kept)
    assert stored(InputGrams, made.hash, kept=kept) is not None
    install(made)
    assert all((folder / f"{made.hash}-0.safetensors").read_bytes() == content for folder in (kept, cache))


def test_a_recipe_names_them_and_the_space_knows_its_own(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict
) -> None:
    plan = prepare_grams(build_plan(load_spec(spec(tmp_path, toy_base, toy_adapters))))
    middle = tuple((low + high) / 2 for low, high in zip(plan.space.domain.low, plan.space.domain.high, strict=True))
    recipe = plan.space.decode(middle)
    assert recipe.artifacts == {"grams": plan.weights.artifacts[0].hash}
    encoded = plan.space.encode(recipe)
    assert encoded is not None
    assert plan.space.decode(encoded) == recipe
    assert plan.space.encode(plan.initial_candidates()[-1][1]) is not None, (
        "a baseline has no artifact, and a nearest point"
    )
    foreign = Recipe(
        base=recipe.base, sources=recipe.sources, rules=recipe.rules, dtype=recipe.dtype, artifacts={"grams": "other"}
    )
    assert plan.space.encode(foreign) is None
    assert [grams.hash for grams in artifacts_of(recipe)] == [plan.weights.artifacts[0].hash]


def test_a_warm_start_of_another_run_s_grams_is_refused_before_it_is_asked(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict
) -> None:
    path = spec(tmp_path, toy_base, toy_adapters)
    plan = prepare_grams(build_plan(load_spec(path)))
    ours = plan.space.decode(plan.space.domain.low)
    for name, recipe in {"ours": ours, "foreign": replace(ours, artifacts={"grams": "other"})}.items():
        (path.parent / f"{name}.yaml").write_text(dump_recipe(recipe))
    warmed = prepare_grams(build_plan(load_spec(path, ["warm_start=[ours.yaml]"])))
    assert [recipe for _, recipe in warmed.warm_starts] == [ours]
    with pytest.raises(InputError, match="artifacts that this run does not have"):
        prepare_grams(build_plan(load_spec(path, ["warm_start=[foreign.yaml]"])))
    bare = write_spec(
        tmp_path / "bare", base=toy_base, experts=toy_adapters, warm_start=[str(path.parent / "ours.yaml")]
    )
    with pytest.raises(InputError, match="artifacts that this run does not have"):
        build_plan(load_spec(bare))


def test_sums_of_older_code_are_not_taken(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spec(tmp_path, toy_base, toy_adapters)
    prepare_grams(build_plan(load_spec(path)))
    before = set(cache.glob("*.safetensors"))
    monkeypatch.setattr(grams, "_SCHEMA", grams._SCHEMA + 1)
    prepare_grams(build_plan(load_spec(path)))
    assert len(set(cache.glob("*.safetensors")) - before) == len(before)


def test_other_bits_are_another_run(tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict) -> None:
    record = prepare_grams(build_plan(load_spec(spec(tmp_path, toy_base, toy_adapters)))).run_record()
    with pytest.raises(InputError, match="CROSSBREED_CACHE"):
        check_same_run(replace(record, artifacts={"grams": "0" * 32}), record, where=tmp_path)


def test_a_run_goes_on_with_the_grams_that_it_was_begun_with(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that would make others of the same inputs, and whose cache has none or has those.

    A run folder may be shared: what it keeps is known by its hash, whoever can write there.
    """
    path, out = spec(tmp_path, toy_base, toy_adapters), tmp_path / "run"
    run(load_spec(path, ["optimizer.budget.trials=4"]), out)
    for file in (out / "artifacts").iterdir():
        file.chmod(0o666)
    [begun] = {record["artifacts"]["grams"] for record in records_of(out)[:1]}
    scaled = grams.weighted_deltas
    monkeypatch.setattr(grams, "weighted_deltas", lambda weights, **how: scaled(dict.fromkeys(weights, 1.001), **how))
    shutil.rmtree(cache)
    other = prepare_grams(build_plan(load_spec(path))).run_record().artifacts["grams"]
    shutil.rmtree(cache)
    report = run(load_spec(path, ["optimizer.budget.trials=5"]), out)
    assert report.is_over
    bred = [r for r in records_of(out) if r["kind"] == "ask" and r["origin"] == "gp"]
    assert [r["recipe"]["artifacts"] for r in bred] == [{"grams": begun}] * 5
    assert {file.name.partition("-")[0] for file in (out / "artifacts").iterdir()} == {begun} != {other}


def test_damaged_ones_are_made_again_for_a_run_that_was_begun_with_them(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict
) -> None:
    """They can be read, but have another hash: not because this processor rounds differently."""
    plan = build_plan(load_spec(spec(tmp_path, toy_base, toy_adapters)))
    begun = prepare_grams(plan).run_record().artifacts["grams"]
    for file in cache.glob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-4] ^= 1
        file.write_bytes(content)
    assert prepare_grams(plan, recorded=begun).run_record().artifacts["grams"] == begun


@pytest.mark.parametrize(
    "grams", ["data", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mixed", "deltas"))]
)
def test_a_run_resumes_publishes_and_merges(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict, grams: str
) -> None:
    """With the transformers engine: real activations, real answers."""
    changes: dict[str, Any] = {
        "space__params": {"weight": 0.5, "grams": grams, "lambda": [1e-3, 1e3], "anchor": "tsv_m"},
        "space__groups": {"modules": ["attention", "mlp"]},
        "fitness__engine": {"kind": "transformers"},
        "fitness__split": {"search": 4, "select": 2, "report": 4},
        "artifacts": {} if grams == "deltas" else {"grams": {"items": 4}},
    }
    path, out = spec(tmp_path, toy_base, toy_adapters, **changes), tmp_path / "run"
    run(load_spec(path, ["optimizer.budget.trials=4"]), out)
    before = journal_of(out)
    bred = [r for r in before if r["kind"] == "ask" and r["origin"] == "gp"]
    assert all(bool(r["recipe"]["artifacts"]) == (grams != "deltas") for r in bred)
    told = {r["number"]: r["fingerprint"] for r in before if r["kind"] == "tell" and r["split"] == "search"}
    assert len({told[r["number"]] for r in bred}) == 4
    if grams == "data":
        shutil.rmtree(cache)  # as on a machine that has not seen the run
    run(load_spec(path, ["optimizer.budget.trials=5"]), out)
    asked = [r for r in journal_of(out) if r["kind"] == "ask"]
    assert asked[:-1] == [r for r in before if r["kind"] == "ask"]
    number = bred[-1]["number"]
    publish_run(out, tmp_path / "model", trial=number, with_scores=False, licence="mit")
    merge_recipe(tmp_path / "model" / "recipe.yaml", tmp_path / "merged", sources=sources_of(toy_base, toy_adapters))
    for folder in ("model", "merged"):
        assert json.loads((tmp_path / folder / "crossbreed.json").read_text())["fingerprint"] == told[number]


def sources_of(base: Path, experts: dict[str, Path]) -> list[str]:
    return [f"base={base}", *(f"{name}={path}" for name, path in experts.items())]


def test_a_merge_without_them_says_what_to_do(tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict) -> None:
    plan = build_plan(load_spec(spec(tmp_path, toy_base, toy_adapters)))
    rule = Rule(match=".*", operator="regmean", params={"weight": 1.0})
    recipe = Recipe(base="base", sources=plan.structure.hashes, rules=(rule,), artifacts={"grams": "0" * 32})
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.to_json()))
    with pytest.raises(InputError, match="not on this machine") as caught:
        merge_recipe(path, tmp_path / "merged", sources=sources_of(toy_base, toy_adapters))
    assert "report RUN" in caught.value.fix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"artifacts": {}}, "artifacts: {grams: {items: 32}}"),
        ({"space__params": {"weight": 0.5, "anchor": "wudi"}}, "task_arithmetic, ties, tsv_m, swudi"),
        ({"space__params": {"weight": 0.5}}, "grams: data"),
        ({"space__operator": "task_arithmetic", "space__params": {}}, "does not read"),
        ({"artifacts": {"grams": {"tasks": {"nobody": ["red"]}}}}, "nobody"),
        ({"artifacts": {"grams": {"tasks": {"FIRST": ["green"]}}}}, "green"),
        ({"artifacts": {"grams": {"item": 3}}}, "items"),
    ],
)
def test_wrong_settings_are_named_at_once(
    tmp_path: Path, toy_base: Path, toy_adapters: dict, changes: dict, message: str
) -> None:
    first = next(iter(toy_adapters))
    named = json.loads(json.dumps(changes).replace("FIRST", first))
    with pytest.raises(InputError) as caught:
        load_spec(spec(tmp_path, toy_base, toy_adapters, **named))
    assert message in str(caught.value)


def test_an_item_that_does_not_fit_is_named(tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict) -> None:
    """One that could be asked: it is too long with its answer."""
    path = spec(tmp_path, toy_base, toy_adapters, fitness__engine={"kind": "transformers", "max_model_len": 17})
    path.write_text(path.read_text().replace("max_tokens: 4", "max_tokens: 2"))
    build_plan(load_spec(path, ["artifacts={}", "space.params.grams=deltas"])).measured()
    with pytest.raises(InputError, match="does not fit"):
        build_plan(load_spec(path)).measured()


def test_an_expert_that_overflows_is_named(tmp_path: Path, cache: Path, toy_base: Path) -> None:
    loud = make_expert(tmp_path / "loud", base=toy_base, seed=1, scale=300.0, pattern="mlp")
    path = spec(tmp_path, toy_base, {"loud": loud}, artifacts={"grams": {"items": 1, "dtype": "float16"}})
    with pytest.raises(InputError, match="float32") as caught:
        prepare_grams(build_plan(load_spec(path)))
    assert "`loud`" in caught.value.problem
    assert not list(cache.glob("*.safetensors"))


@pytest.mark.parametrize(("dtype", "fix"), [("float32", ""), ("bfloat16", "set `artifacts.grams.dtype: float32`")])
def test_only_what_helps_is_advised(
    tmp_path: Path,
    cache: Path,
    toy_base: Path,
    dtype: str,
    fix: str,
) -> None:
    loud = make_expert(tmp_path / "loud", base=toy_base, seed=1, scale=1e30, pattern="mlp")
    path = spec(tmp_path, toy_base, {"loud": loud}, artifacts={"grams": {"items": 1, "dtype": dtype}})
    with pytest.raises(InputError, match=f"finite activations in {dtype}") as caught:
        prepare_grams(build_plan(load_spec(path)))
    assert caught.value.fix == fix


def test_weights_that_mean_nothing_are_no_activations(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict
) -> None:
    """An adapter whose product overflows: no dtype of the activations mends it."""
    name = next(iter(toy_adapters))
    loud = shutil.copytree(toy_adapters[name], tmp_path / "loud")
    file = loud / "adapter_model.safetensors"
    save_file({key: tensor * 1e25 for key, tensor in load_file(file).items()}, file)
    with pytest.raises(InvalidWeights, match="_proj"):
        prepare_grams(build_plan(load_spec(spec(tmp_path, toy_base, {"loud": loud}))))
