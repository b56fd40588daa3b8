"""Searches in data-flow space: one engine for all depths, a journal that repeats, and a stock model in the end."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers as tf
import yaml
from toy_runs import journal_of, write_spec

from crossbreed.errors import InputError
from crossbreed.recipes import dump_recipe, load_recipe
from crossbreed.runs import build_plan, check_spec, load_spec, merge_recipe, publish_run, run
from crossbreed.runs.evaluate import evaluate
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.runs.results.show import show_json
from crossbreed.runs.workers.candidate_engine import CandidateEngineByWeights, start_candidate_engine
from crossbreed.types import BASE, Recipe, Trial

SPACE = {"kind": "layer_path", "max_depth": 7, "repetitions": 1}
TEXTS = {"name": "prose", "kind": "perplexity", "items": "prose.jsonl", "text": "text"}


def path_spec(folder: Path, base: Path, experts: dict[str, Path], **changes: Any) -> Path:
    """Writes a spec whose answers are transformers' own, of texts."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": f"p{i}", "text": f"Text {i} says {i * 37 % 101}."}) for i in range(24)]
    (folder / "prose.jsonl").write_text("\n".join(lines) + "\n")
    return write_spec(
        folder,
        base=base,
        experts=experts,
        **{
            "space": SPACE,
            "fitness__engine": {"kind": "transformers"},
            "fitness__tasks": [TEXTS],
            "fitness__objectives": [{"task": "prose", "minimize": True}],
            "fitness__split": {"search": 3, "select": 2, "report": 3},
            "optimizer__budget": {"trials": 6},
            "optimizer__options": {"popsize": 4, "sigma0": 0.4},
        }
        | changes,
    )


def trials(out: Path) -> list[Trial]:
    return list(fold(read(RunFolder(out).journal)).all_trials)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_experts: dict[str, Path]) -> Path:
    """A finished run; its spec stands beside it."""
    folder = tmp_path_factory.mktemp("paths")
    run(load_spec(path_spec(folder, toy_base, toy_experts)), folder / "run")
    return folder / "run"


def longest(out: Path) -> Trial:
    bred = [trial for trial in trials(out) if trial.candidate.point is not None]
    return max(bred, key=lambda trial: len(trial.recipe.layers))


def test_paths_of_many_depths_are_scored_by_one_engine(done: Path) -> None:
    bred = [trial.recipe for trial in trials(done) if trial.candidate.point is not None]
    assert len(bred) == 6
    assert len({len(recipe.layers) for recipe in bred}) > 2
    assert all(trial.score.status == "OK" for trial in trials(done))
    assert (done / "log.txt").read_text().count("canary") <= 1, "what the canary could not see, if anything"


def test_a_published_path_is_a_stock_model_that_scores_as_in_the_search(done: Path, tmp_path: Path) -> None:
    trial = longest(done)
    publish_run(done, tmp_path / "out", trial=trial.number, with_scores=False, licence="mit")
    model = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model) is tf.LlamaForCausalLM
    assert model.config.num_hidden_layers == len(trial.recipe.layers) > 0
    assert json.loads((tmp_path / "out" / "crossbreed.json").read_text())["fingerprint"] == trial.score.fingerprint
    assert not (tmp_path / "out" / "mergekit_config.yml").exists()
    assert "The layers, in order" in (tmp_path / "out" / "README.md").read_text()
    spec = load_spec(done.parent / "spec.yaml")
    for one in (tmp_path / "out", trial.recipe):
        found = evaluate(one, spec, split="search")
        assert found.tasks["prose"].mean == pytest.approx(trial.score.tasks["prose"].mean, rel=1e-14)
        assert found.fingerprint == trial.score.fingerprint


def test_a_path_is_shown_in_words(done: Path) -> None:
    number = longest(done).number
    shown = show_json(done)
    steps = next(trial["recipe"]["layers"] for trial in shown["trials"] if trial["number"] == number)
    assert [steps[0][:2], steps[-1][:2]] == [[BASE, 0], [BASE, 3]]


def test_a_recipe_of_layers_is_merged_by_hand(
    done: Path, tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path]
) -> None:
    """And beside one without, in one command."""
    recipe = longest(done).recipe
    file = tmp_path / "path.yaml"
    file.write_text(dump_recipe(recipe))
    assert "- [base, 0, 1.0]" in file.read_text(), "a step is a line"
    assert load_recipe(file).id == recipe.id
    sources = [f"{name}={folder}" for name, folder in {BASE: toy_base, **toy_experts}.items()]
    merge_recipe(file, tmp_path / "out", sources=sources)
    record = json.loads((tmp_path / "out" / "crossbreed.json").read_text())
    assert record["fingerprint"] == longest(done).score.fingerprint
    with pytest.raises(InputError, match="layers of its own"):
        merge_recipe(file, tmp_path / "adapter", sources=sources, form="adapter")


@pytest.fixture
def fake_spec(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> Callable[..., Path]:
    """Writes a spec of an engine whose answers cost nothing."""

    def write(name: str = "spec", **changes: Any) -> Path:
        few = {"space": SPACE, "fitness__split": {"search": 6, "select": 4, "report": 6}} | changes
        return write_spec(tmp_path / name, base=toy_base, experts=toy_adapters, trials=5, **few)

    return write


POSITIONS = {"kind": "layer_path", "encoding": "position", "scales": "none"}


@pytest.mark.parametrize("space", [SPACE, pytest.param(POSITIONS, marks=pytest.mark.slow)])
def test_a_run_repeats_itself_and_resumes(
    tmp_path: Path, fake_spec: Callable[..., Path], space: dict[str, Any]
) -> None:
    spec = load_spec(fake_spec(space=space))
    run(spec, tmp_path / "whole")
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "journal.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    run(spec, tmp_path / "cut")
    assert journal_of(tmp_path / "cut") == journal_of(tmp_path / "whole")


def test_weights_first_then_paths(tmp_path: Path, fake_spec: Callable[..., Path]) -> None:
    """The base of the paths is the best merge of the stage before, and scales may polish the best path."""
    raw = yaml.safe_load(fake_spec().read_text())
    optimizer = {"kind": "random", "budget": {"trials": 3}}
    spaces = [{"kind": "coefficients"}, SPACE, {"kind": "scales"}]
    raw = {key: value for key, value in raw.items() if key not in ("space", "optimizer")}
    raw["stages"] = [{"kind": "search", "space": space, "optimizer": optimizer} for space in spaces]
    spec = tmp_path / "spec" / "staged.yaml"
    spec.write_text(yaml.safe_dump(raw))
    run(load_spec(spec), tmp_path / "run")
    stages = {number: [t for t in trials(tmp_path / "run") if t.candidate.stage == number] for number in (0, 1, 2)}
    paths = [trial.recipe for trial in stages[1]]
    assert all(recipe.rules == paths[0].rules for recipe in paths)
    assert paths[0].rules
    assert all(recipe.layers for recipe in paths)


def test_a_path_is_a_warm_start_where_there_is_room(tmp_path: Path, fake_spec: Callable[..., Path]) -> None:
    spec = fake_spec()
    plan = build_plan(load_spec(spec))
    steps = ((BASE, 0, 1.0), *[("plain", 1, 0.9)] * 5, (BASE, 3, 1.0))
    recipe = Recipe(base=BASE, sources=plan.structure.hashes, rules=(), layers=steps)
    (tmp_path / "path.yaml").write_text(dump_recipe(recipe))
    warm = {"warm_start": [str(tmp_path / "path.yaml")]}
    assert build_plan(load_spec(fake_spec("warm", **warm))).warm_starts[0][1] == recipe
    for name, space in (("small", {**SPACE, "max_depth": 5}), ("none", {"kind": "coefficients"})):
        with pytest.raises(InputError, match="no room"):
            build_plan(load_spec(fake_spec(name, space=space, **warm)))


def test_engines_of_recipes_and_adapters_are_refused(fake_spec: Callable[..., Path]) -> None:
    names = {"base": "fake/base", "experts": {"one": "fake/one"}}
    of_recipes = {"fitness__engine": {"kind": "fake_recipes"}, "sources": names}
    of_adapters = {"fitness__engine": {"kind": "lora_server", "url": "http://127.0.0.1:9/v1", "max_rank": 8}}
    for name, changes in (("recipes", of_recipes), ("adapters", of_adapters)):
        with pytest.raises(InputError, match=f"depths of their own, and an engine that takes {name}"):
            build_plan(load_spec(fake_spec(name, **changes)))


def test_too_small_a_depth_is_refused_before_anything_starts(fake_spec: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="max_depth: 4"):
        check_spec(load_spec(fake_spec(space={**SPACE, "max_depth": 3})))


def test_only_what_changes_is_sent_and_idle_layers_once(
    toy_base: Path, toy_experts: dict[str, Path], tmp_path: Path
) -> None:
    """A candidate on top of another answers as when it is sent whole."""
    plan = build_plan(load_spec(path_spec(tmp_path, toy_base, toy_experts)))
    assert plan.weights is not None
    base = plan.base_recipe
    steps = [((BASE, 0, 1.0), ("everything", 1, 0.8), (BASE, 3, 1.0)), ((BASE, 0, 1.0), (BASE, 3, 1.0)), ()]
    recipes = [replace(base, layers=one) for one in steps]
    request = next(iter(plan.tasks[0].requests(plan.items["search"]["prose"].items[0])))
    engine = start_candidate_engine(plan.spec.fitness.engine, plan.weights)
    assert isinstance(engine, CandidateEngineByWeights)
    found, hashes = [], []
    for recipe in recipes:
        adopted = engine.adopt(recipe)
        found.append(adopted.handle.answer([request])[0].logprobs)
        hashes.append(adopted.fingerprint)
        engine.confirm()
    for recipe, answer, fingerprint in zip(recipes, found, hashes, strict=True):
        fresh = start_candidate_engine(plan.spec.fitness.engine, plan.weights)
        whole = fresh.adopt(recipe)
        assert (whole.handle.answer([request])[0].logprobs, whole.fingerprint) == (answer, fingerprint)
        fresh.close()
    engine.close()


@pytest.mark.parametrize("kind", ["frank_wolfe", "gradient", "m2n2"])
def test_optimizers_that_need_deltas_are_refused(fake_spec: Callable[..., Path], kind: str) -> None:
    optimizer = {"kind": kind, "budget": {"trials": 3}}
    with pytest.raises(InputError, match=r"paths of|does not search"):
        build_plan(load_spec(fake_spec(optimizer=optimizer)))
