"""The searches behind docs/results.md: their specs build, and their tables say what the runs found."""

import json
from pathlib import Path

import numpy as np
import pytest
from toy_runs import write_spec

from benchmarks import anchors, distractors, label_free, landscapes, optimizers, results, weights
from crossbreed.recipes import parse_recipe
from crossbreed.runs import build_plan, load_spec, run


@pytest.mark.parametrize("preset", results.METHODS)
def test_a_preset_searches_the_zoo_for_both_objectives(preset: str) -> None:
    mean, worst = (results.spec_of(f"{preset}-{objective}", minutes=5) for objective in results.OBJECTIVES)
    assert mean.model_copy(update={"name": worst.name, "fitness": worst.fitness}) == worst
    budget = worst.optimizer.budget if worst.optimizer else worst.budget
    assert (budget.minutes, budget.trials) == (5, None)
    build_plan(mean)
    [objective] = build_plan(worst).objectives
    assert objective.name == "worst of sums, french, roman"


@pytest.mark.slow
def test_what_weights_hold_is_measured_on_the_same_items() -> None:
    plan = build_plan(weights.spec_of("best", seed=7, zoo="skills"))
    for name in weights.RUNS:
        spec = weights.spec_of(name, seed=7, zoo="skills")
        assert spec.fitness == weights.spec_of("uniform", seed=7, zoo="skills").fitness
        if "random experts" not in name:  # which are written by a script
            build_plan(spec)
    for name in weights.MERGES:
        parse_recipe(weights.recipe_of(name, plan.structure.hashes).to_json())


def test_equal_items_are_what_gradients_cost() -> None:
    split = {"search": 48, "select": 40, "report": 250}
    items = {}
    for name in ("frank_wolfe", "cma_es"):
        spec = distractors.spec_of(name, trials=30, split=split)
        of_slopes = spec.fitness.slopes.items if spec.optimizer.kind == "frank_wolfe" else 0
        items[name] = spec.optimizer.budget.trials * (48 + of_slopes)
    assert items["frank_wolfe"] == items["cma_es"]


def test_the_anchor_alone_is_searched_in_the_same_ranges() -> None:
    alone, bred = (anchors.spec_of("tsv_m", alone=alone, trials=40) for alone in (True, False))
    assert alone.optimizer == bred.optimizer
    assert alone.space.params["scale"] == bred.space.params["scale"]
    names = build_plan(alone).coordinates
    assert names
    assert all("scale" in name for name in names)


def test_tables_say_what_a_run_found(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    spec = load_spec(write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters, trials=6))
    folder = tmp_path / "cma_es-mean"
    run(spec, folder)
    report = json.loads((folder / "report.json").read_text())
    winner = report["winner"]
    cells = [cell.strip() for cell in results.row_of(folder).strip("|").split("|")]
    assert cells[:3] == ["cma_es", "mean", f"{winner['mean']:.3f} [{winner['low']:.3f}, {winner['high']:.3f}]"]
    num_baselines = len(build_plan(spec).initial_candidates())
    assert cells[5:8:2] == [str(40 * (6 + num_baselines)), "6"], "what was bred is not what was given"
    assert cells[8].startswith(f"[{winner['origin']} {winner['number']}]")
    assert f"{winner['origin']} {winner['number']}" in distractors.row_of(folder)
    row = anchors.row_of("none", [folder, folder])
    assert "0.000 [0.000, 0.000]" in row, "a run is not better than itself"


def test_rows_of_runs_and_of_merges_are_paired_on_the_report_items(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    folder, merge = tmp_path / "run", tmp_path / "merge"
    run(load_spec(write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters, trials=2)), folder)
    found = weights.scores_of(folder)
    worse = {task: [one.item_ids[::-1], [value - 0.25 for value in one.values[::-1]]] for task, one in found.items()}
    merge.mkdir()
    (merge / "report.json").write_text(json.dumps({"scores": worse}))
    rows = {("data_free", 7): folder, ("uniform", 7): merge, ("best", 7): folder}
    assert [*weights.differences(rows, [7, 8])] == ["| data_free | uniform | 7 | 0.250 [0.250, 0.250] |"]


def test_goals_without_labels_are_correlated_with_labels(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    """Of recorded candidates; those that were measured are not measured again."""
    run(load_spec(write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters, trials=4)), tmp_path / "run")
    out = tmp_path / "values.json"

    def measured(number: int) -> dict[str, list[float]]:
        return label_free.measure(tmp_path / "run", "agreement", out, items=2, number=number, engine="transformers")

    values = measured(3)
    assert set(values) == {"labelled", *(f"{task} by {name}" for task in ("red", "blue") for name in toy_adapters)}
    assert {len(column) for column in values.values()} == {3}
    kept = out.read_text()
    assert measured(3) == values
    assert out.read_text() == kept
    first, *others = label_free.table(values).splitlines()
    assert first.startswith("3 candidates")
    assert len(others) == 5
    value, low, high = label_free.correlation(np.arange(30.0), -np.sqrt(np.arange(30.0)))
    assert (value, low, high) == (-1.0, -1.0, -1.0)


def test_searches_are_compared_on_landscapes_whose_best_is_known() -> None:
    landscape = landscapes.LANDSCAPES["bowl, 6 coordinates"]()
    assert landscape.value(tuple(np.linspace(0.2, 1.1, 6))) == pytest.approx(landscape.best)
    lines = [*optimizers.table(landscape, ["random", "cma_es", "pycma itself", "gp"], seeds=2, budgets=[60])]
    found = dict(line.strip("| ").split(" | ") for line in lines[2:])
    assert found["gp"] == "not run"
    assert float(found["cma_es"].split()[0]) < float(found["random"].split()[0])
    assert optimizers.regret(optimizers.ours("cma_es"), landscape, seed=3, budget=20) == optimizers.regret(
        optimizers.ours("cma_es"), landscape, seed=3, budget=20
    )


def test_a_run_is_a_landscape_between_its_trials(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    spec = load_spec(write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters, trials=24))
    run(spec, tmp_path / "run")
    landscape = landscapes.recorded(tmp_path / "run")
    assert 0 <= landscape.value(landscape.start) <= landscape.best <= 1
    assert optimizers.regret(optimizers.ours("random"), landscape, seed=0, budget=5) >= 0
