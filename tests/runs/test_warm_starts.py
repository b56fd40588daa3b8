"""Warm starts in any form that people have: under other names, as a configuration of mergekit."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_runs import write_spec

from crossbreed.errors import InputError
from crossbreed.recipes import dump_recipe
from crossbreed.runs import build_plan, load_spec, report_on, run
from crossbreed.runs.plan import Plan
from crossbreed.runs.plan_text import plan_text
from crossbreed.runs.results.show import open_run
from crossbreed.types import Recipe, Rule


def plan_of(folder: Path, base: Path, experts: dict[str, Path], warm_start: Path) -> Plan:
    return build_plan(load_spec(write_spec(folder, base=base, experts=experts, warm_start=[str(warm_start)])))


def recipe_in(folder: Path, hashes: dict[str, str], weight: dict[str, float]) -> Path:
    rule = Rule(match=".*", operator="task_arithmetic", params={"weight": weight})
    path = folder / "warm.yaml"
    path.write_text(dump_recipe(Recipe(base="mine", sources=hashes, rules=(rule,))))
    return path


def test_sources_are_recognised_by_their_hashes(tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path]) -> None:
    spec = write_spec(tmp_path / "first", base=toy_base, experts=toy_experts)
    hashes = build_plan(load_spec(spec)).structure.hashes
    theirs = {"base": "mine", "attention": "everything", "everything": "other"}  # one name even stands for another
    warm = recipe_in(
        tmp_path, {theirs[name]: hash_ for name, hash_ in hashes.items()}, {"everything": 0.25, "other": 0.75}
    )
    ((by, recipe),) = plan_of(tmp_path / "second", toy_base, toy_experts, warm).warm_starts
    assert str(by) == "warm_start:0"
    assert (recipe.base, dict(recipe.sources)) == ("base", dict(hashes))
    assert recipe.rules[0].params["weight"] == {"attention": 0.25, "everything": 0.75}


def test_a_configuration_of_mergekit_is_one(tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path]) -> None:
    models = [
        {"model": str(path), "parameters": {"weight": weight}}
        for path, weight in zip(toy_experts.values(), (0.25, 0.75), strict=True)
    ]
    warm = tmp_path / "merge.yml"
    warm.write_text(
        yaml.safe_dump(
            {"merge_method": "task_arithmetic", "base_model": str(toy_base), "models": models, "dtype": "float32"}
        )
    )
    plan = plan_of(tmp_path / "spec", toy_base, toy_experts, warm)
    ((_, recipe),) = plan.warm_starts
    assert dict(recipe.sources) == dict(plan.structure.hashes)
    assert {frozenset(rule.params["weight"].items()) for rule in recipe.rules} == {
        frozenset({("attention", 0.25), ("everything", 0.75)})
    }


def test_a_run_outlives_the_files_of_its_warm_starts(tmp_path: Path) -> None:
    """They may be another run's: it goes on, and is reported, and published, wherever its folder is."""
    spec, out = tmp_path / "spec", tmp_path / "run"
    changes: dict[str, Any] = {"base": Path("fake/base"), "experts": {"one": Path("fake/one"), "two": Path("fake/two")}}
    changes |= {"fitness__engine": {"kind": "fake_recipes"}, "trials": 2}
    hashes = build_plan(load_spec(write_spec(spec, **changes))).structure.hashes
    warm = recipe_in(tmp_path, {"mine": hashes["base"], "one": hashes["one"], "two": hashes["two"]}, {"one": 0.25})
    loaded = load_spec(write_spec(spec, warm_start=[str(warm)], **changes))
    whole = run(loaded, out)
    warm.unlink()
    assert run(loaded, out).winner == whole.winner
    moved = out.rename(tmp_path / "moved")
    assert report_on(moved)[1].winner == whole.winner
    longer = load_spec(moved / "spec.yaml", ["optimizer.budget.trials=4"])
    assert sum(run(longer, moved).num_trials.values()) == sum(whole.num_trials.values()) + 2
    recipe_in(tmp_path, {"mine": hashes["base"], "one": hashes["one"], "two": hashes["two"]}, {"one": 0.5})
    with pytest.raises(InputError, match="started with another spec"):
        run(loaded, moved)


def test_models_that_the_spec_does_not_have_are_refused(
    tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path]
) -> None:
    warm = recipe_in(tmp_path, {"mine": "0" * 32, "everything": "1" * 32}, {"everything": 1.0})
    with pytest.raises(InputError, match="merges other sources"):
        plan_of(tmp_path / "spec", toy_base, toy_experts, warm)


def test_the_distance_to_the_space_is_said(tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path]) -> None:
    hashes = build_plan(load_spec(write_spec(tmp_path / "plain", base=toy_base, experts=toy_experts))).structure.hashes
    for weights, said in (
        ({"attention": 0.25, "everything": 0.75}, "in the space"),
        (
            {"attention": 1.75, "everything": 2.5},
            "outside of the space: at the nearest point, a weight differs by up to 1",
        ),
    ):
        warm = recipe_in(tmp_path, hashes | {"mine": hashes["base"]}, weights)
        raw = yaml.safe_load(warm.read_text())
        del raw["sources"]["base"]
        warm.write_text(yaml.safe_dump(raw))
        text = plan_text(plan_of(tmp_path / "spec", toy_base, toy_experts, warm))
        assert f"  warm    {warm}: {said}\n" in text


def test_a_merge_within_a_group_is_outside(tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path]) -> None:
    """Its mean is within the range, but the space has one weight for what it gives two."""
    hashes = build_plan(load_spec(write_spec(tmp_path / "plain", base=toy_base, experts=toy_experts))).structure.hashes
    rules = [
        Rule(match=match, operator="task_arithmetic", params={"weight": {"everything": weight}})
        for match, weight in ((".*q_proj.*", 1.0), (".*", 0.5))
    ]
    warm = tmp_path / "warm.yaml"
    warm.write_text(dump_recipe(Recipe(base="base", sources=dict(hashes), rules=tuple(rules))))
    text = plan_text(plan_of(tmp_path / "spec", toy_base, toy_experts, warm))
    assert "outside of the space: at the nearest point, a weight differs by up to 0." in text


def test_a_merge_without_a_point_is_said_to_have_none(
    tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path]
) -> None:
    hashes = build_plan(load_spec(write_spec(tmp_path / "plain", base=toy_base, experts=toy_experts))).structure.hashes
    rule = Rule(match=".*", operator="model_stock", params={})
    warm = tmp_path / "warm.yaml"
    warm.write_text(dump_recipe(Recipe(base="base", sources=dict(hashes), rules=(rule,))))
    text = plan_text(plan_of(tmp_path / "spec", toy_base, toy_experts, warm))
    assert "the space has no point near it" in text


def test_a_trial_or_the_winner_of_an_earlier_run_is_one(tmp_path: Path) -> None:
    """By the run's name; what it goes on to find changes nothing in a run that has begun."""
    changes: dict[str, Any] = {"base": Path("fake/base"), "experts": {"one": Path("fake/one"), "two": Path("fake/two")}}
    changes |= {"fitness__engine": {"kind": "fake_recipes"}, "trials": 2}
    report = run(load_spec(write_spec(tmp_path / "first", **changes)), tmp_path / "earlier")
    earlier = str(tmp_path / "earlier")
    loaded = load_spec(write_spec(tmp_path / "second", warm_start=[earlier, f"{earlier}:2"], **changes))
    later = run(loaded, tmp_path / "later")
    starts = [recipe for _, recipe in build_plan(loaded).warm_starts]
    assert starts[0] == report.winner.recipe
    assert starts[1] == open_run(tmp_path / "earlier").history.trials[2].recipe
    more = load_spec(write_spec(tmp_path / "first", **changes | {"trials": 6}))
    run(more, tmp_path / "earlier")
    assert run(loaded, tmp_path / "later") == later
    for name, said in ((f"{earlier}:99", "no trial 99"), (f"{earlier}:x", "cannot be read")):
        with pytest.raises(InputError, match=said):
            build_plan(load_spec(write_spec(tmp_path / "third", warm_start=[name], **changes)))
    (tmp_path / "earlier" / "report.json").unlink()
    with pytest.raises(InputError, match="no winner yet"):
        build_plan(load_spec(write_spec(tmp_path / "third", warm_start=[earlier], **changes)))
