"""A search of a regression's settings: from the statistics of its walk, in a stage after it, polished and resumed."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toy_runs import journal_of, write_spec
from transformers import AutoModelForCausalLM

from crossbreed.errors import InputError
from crossbreed.kernels.artifacts.walk_statistics import WalkStatistics
from crossbreed.recipes.named import scaled_merge
from crossbreed.recipes.operators.walked import ANCHORED
from crossbreed.runs import build_plan, check_spec, load_spec, merge_recipe, publish_run, run
from crossbreed.runs.checking.text import findings_text
from crossbreed.runs.regression.artifact import prepare_regression
from crossbreed.runs.regression.walk import Keeping, Settings, Text, walk
from crossbreed.runs.weights import Weights
from crossbreed.sources import open_sources
from crossbreed.testing.tiny_models import ARCHITECTURES
from crossbreed.testing.toys import byte_tokenizer, load_weights, make_expert
from crossbreed.types import Recipe, Rule

DRAW = torch.Generator().manual_seed(0)
TEXTS = [
    Text(token_ids=tuple(torch.randint(250, (length,), generator=DRAW).tolist()), num_prompt=3) for length in (60, 90)
]
SCALE, REFERENCE = 0.6, {"ridge": 0.3, "anchor_scale": 0.6, "own": 0.5}
SPACE = {"kind": "regression_settings", "groups": {"layers": 2, "modules": ["attention", "mlp"]}}
STAGES: list[dict[str, Any]] = [
    {"kind": "regression", "items": 4},
    {"kind": "cma_es", "space": SPACE, "options": {"popsize": 4}, "budget": {"trials": 2}},
    {"kind": "cma_es", "space": {"kind": "scales"}, "options": {"popsize": 4}, "budget": {"trials": 2}},
]
QUERY, OUTPUT = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.o_proj.weight"


def opened(base: Path, experts: Mapping[str, Path]) -> Weights:
    return Weights(sources=open_sources(str(base), {name: str(path) for name, path in experts.items()}))


def anchor_of(weights: Weights, scale: float = SCALE) -> Recipe:
    rules = scaled_merge("tsv_m", scale, experts=weights.structure.experts, matrices=weights.projections)
    return Recipe(base="base", sources=weights.structure.hashes, rules=rules, dtype="float32")


def walked(
    weights: Weights, into: Path | None = None, *, texts: Any = None, own: float = 0.5, ridge: float = 0.3, **more: Any
) -> dict[str, torch.Tensor]:
    anchor = anchor_of(weights, more.pop("scale", SCALE))
    if into is not None:
        into.mkdir()
    keeping = None if into is None else Keeping(folder=into, anchor=anchor, scale=SCALE)
    texts = texts or dict.fromkeys(weights.sources.experts, TEXTS)
    return dict(walk(weights, texts, anchor, Settings(ridge=ridge, own=own, **more), keeping=keeping))


def by_statistics(weights: Weights, folder: Path, **settings: float) -> dict[str, torch.Tensor]:
    """The matrices that the operator makes of what a walk has written."""
    statistics = WalkStatistics.open(*sorted(folder.iterdir()))
    rule = Rule(match=".*", operator=ANCHORED, params={**REFERENCE, **settings, "rest": "base"})
    artifacts = {"statistics": statistics.hash}
    recipe = Recipe(base="base", sources=weights.structure.hashes, rules=(rule,), dtype="float32", artifacts=artifacts)
    found = replace(weights, artifacts=(statistics,)).materialize(recipe)
    return {name: tensor for name, tensor in found if statistics.of(name) is not None}


def furthest(some: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor], of: Mapping[str, Any]) -> float:
    """The largest difference of a matrix, in parts of what it is changed by."""
    return max(
        float((some[name] - others[name]).norm() / (others[name].float() - of[name].float()).norm()) for name in some
    )


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_at_the_settings_of_the_walk_they_make_its_matrices(kind: str, tmp_path: Path) -> None:
    """Stored either way round; and to keep them changes no bit of the merge."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # noqa: TID251 - transformers initialises from the global generator, restored after
        made = AutoModelForCausalLM.from_config(ARCHITECTURES[kind](), dtype=torch.float32)
    made.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    experts = {name: make_expert(tmp_path / name, base=tmp_path / "base", seed=n) for n, name in enumerate("ab")}
    weights = opened(tmp_path / "base", experts)
    made = walked(weights, tmp_path / "kept")
    plain = walked(weights)
    assert all(torch.equal(made[name], plain[name]) for name in made)
    found = by_statistics(weights, tmp_path / "kept")
    assert len(found) >= 8
    assert furthest(found, made, load_weights(tmp_path / "base")) < 1e-4


def test_elsewhere_they_are_exact_where_inputs_stay_and_near_behind(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    weights, base = opened(toy_base, toy_adapters), load_weights(toy_base)
    walked(weights, tmp_path / "kept")
    found = by_statistics(weights, tmp_path / "kept", ridge=0.6, anchor_scale=0.8, own=0.8)
    exact = walked(weights, ridge=0.6, scale=0.8, own=0.8)
    assert furthest({QUERY: found[QUERY]}, exact, base) < 1e-4
    assert furthest({OUTPUT: found[OUTPUT]}, exact, base) > 1e-4
    found, reference = (by_statistics(weights, tmp_path / "kept", ridge=ridge) for ridge in (3.0, 0.3))
    exact = walked(weights, ridge=3.0)
    assert furthest(found, exact, base) < 0.5 * furthest(reference, exact, base)


def test_a_large_lambda_is_the_anchor_at_its_scale(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    weights = opened(toy_base, toy_adapters)
    walked(weights, tmp_path / "kept")
    found = by_statistics(weights, tmp_path / "kept", ridge=1e9, anchor_scale=0.9)
    assert furthest(found, dict(weights.materialize(anchor_of(weights, 0.9))), load_weights(toy_base)) < 1e-4


def test_names_and_order_of_experts_change_rounding_alone(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    first = opened(toy_base, toy_adapters)
    second = opened(toy_base, {"b": toy_adapters["stabilised"], "a": toy_adapters["plain"]})
    walked(first, tmp_path / "1", texts={"plain": TEXTS[:1], "stabilised": TEXTS[1:]})
    walked(second, tmp_path / "2", texts={"b": TEXTS[1:], "a": TEXTS[:1]})
    found, other = (
        by_statistics(one, tmp_path / folder, ridge=2.0, own=0.9) for one, folder in ((first, "1"), (second, "2"))
    )
    assert furthest(found, other, load_weights(toy_base)) < 1e-3


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "artifacts"


def staged(tmp_path: Path, toy_base: Path, experts: Mapping[str, Path], stages: Any = STAGES) -> Path:
    path = write_spec(
        tmp_path / "spec", base=toy_base, experts=experts, fitness__split={"search": 4, "select": 4, "report": 4}
    )
    raw = yaml.safe_load(path.read_text())
    del raw["space"], raw["optimizer"]
    path.write_text(yaml.safe_dump({**raw, "stages": stages}))
    return path


def test_a_run_searches_them_polishes_publishes_and_moves(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    path = staged(tmp_path, toy_base, toy_adapters)
    run(load_spec(path), tmp_path / "run")
    begun, *records = journal_of(tmp_path / "run")
    assert begun["artifacts"].keys() == {"regression", "statistics"}
    asks = [record for record in records if record["kind"] == "ask"]
    searched = [ask for ask in asks if ask.get("stage") == 1]
    assert len(searched) == 2
    assert any(rule["operator"] == ANCHORED for ask in searched for rule in ask["recipe"]["rules"])
    bred = next(ask for ask in searched if ask["recipe"].get("artifacts"))
    assert bred["recipe"]["artifacts"] == {"statistics": begun["artifacts"]["statistics"]}
    publish_run(tmp_path / "run", tmp_path / "out", trial=bred["number"], with_scores=False, licence="mit")
    shutil.move(cache, tmp_path / "elsewhere")  # another machine: the run's own copies are taken, and it goes on
    events: list[Any] = []
    run(load_spec(path, ["stages.2.budget.trials=3"]), tmp_path / "run", on_event=events.append)
    assert not [event for event in events if str(event).startswith("regression:")]
    kept = tmp_path / "run" / "artifacts" / f"regression-{begun['artifacts']['regression']}"
    sources = [f"base={toy_base}", *(f"{name}={path}" for name, path in toy_adapters.items()), f"regression={kept}"]
    merge_recipe(tmp_path / "out" / "recipe.yaml", tmp_path / "merged", sources=sources)
    merged, published = load_weights(tmp_path / "merged"), load_weights(tmp_path / "out")
    assert all(torch.equal(merged[name], published[name]) for name in published)


def test_they_are_made_once_and_again_alike(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    path, events = staged(tmp_path, toy_base, toy_adapters), list[Any]()
    first = prepare_regression(build_plan(load_spec(path)), on_event=events.append)
    number = len(events)
    again = prepare_regression(build_plan(load_spec(path)), on_event=events.append)
    assert len(events) == number
    for file in cache.glob("*-*.safetensors"):
        file.unlink()
    remade = prepare_regression(build_plan(load_spec(path)), on_event=events.append)
    assert len(events) == 2 * number
    assert again.run_record().artifacts == remade.run_record().artifacts == first.run_record().artifacts
    plain = prepare_regression(build_plan(load_spec(path, ["stages.1.space={kind: coefficients}"])))
    assert plain.run_record().artifacts == {"regression": first.structure.hashes["regression"]}
    [made] = [recipe for by, recipe in first.initial_candidates() if by.kind == "made"]
    assert first.space is not None
    start = first.space.encode(made)
    assert start is not None
    assert first.space.decoder(seed=0).create(0, start) == made


@pytest.mark.parametrize(
    ("stages", "told", "where"),
    [
        (STAGES[1:2], "the run makes none", "artifacts"),
        ([{**STAGES[0], "passes": 2}, STAGES[1]], "one walk: later walks have another anchor", "stages.0.passes"),
        ([{**STAGES[0], "row_space": True}, STAGES[1]], "one walk", "stages.0.row_space"),
        ([{**STAGES[0], "off_diagonal": 0.5}, STAGES[1]], "of whole Grams", "stages.0.off_diagonal"),
        ([STAGES[0], {**STAGES[1], "space": {**SPACE, "own": [0.5, 2]}}], "`own` must be within", "own"),
        (
            [STAGES[0], {**STAGES[1], "space": {**SPACE, "own": None, "ridge": None, "anchor_scale": None}}],
            "there is nothing to search",
            "space",
        ),
        (
            [{**STAGES[0], "modules": ["self_attn"]}, {**STAGES[1], "space": {**SPACE, "groups": {"layers": 9}}}],
            "more bands than layers",
            "groups",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(
    stages: list[Any], told: str, where: str, tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match=told) as caught:
        build_plan(load_spec(staged(tmp_path, toy_base, toy_adapters, stages)))
    assert where in str(caught.value)


def test_an_optimizer_of_genomes_or_slopes_is_refused(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    for kind in ("m2n2", "frank_wolfe", "gradient"):
        path = staged(tmp_path, toy_base, toy_adapters, [STAGES[0], {**STAGES[1], "kind": kind, "options": {}}])
        with pytest.raises(InputError):
            check_spec(load_spec(path))


def test_check_says_what_they_take(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    text = findings_text(check_spec(load_spec(staged(tmp_path, toy_base, toy_adapters))))
    assert "12 coordinates" in text
    assert "GB of statistics" in text
