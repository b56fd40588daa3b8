"""The engine that takes recipes: a hill with a known top, answered from coefficients alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossbreed.errors import EngineError, InputError
from crossbreed.fitness import (
    ENGINES,
    EnginePart,
    FakeConfig,
    GenerateTask,
    Item,
    SearchItems,
    Task,
    build_engine,
    build_recipe_engine,
    evaluate_tasks,
)
from crossbreed.recipes import require_matches
from crossbreed.testing.fake_recipes import FakeRecipeEngine, FakeRecipeHandle, FakeRecipesConfig, optimum
from crossbreed.types import Recipe, Rule

CONFIG = FakeRecipesConfig(kind="fake_recipes")
STRUCTURE = CONFIG.describe_sources("fake/base", {"french": "fake/french", "sums": "fake/sums"})
ITEMS = tuple(Item(id=str(i), fields={"n": i, "a": f"yes {i}"}) for i in range(400))
WRITE = GenerateTask(kind="generate", name="write", items="", prompt="adding|{n}|{a}", answer="a")
TASK = Task(kind=WRITE, items=ITEMS)
weights = st.floats(-2, 2)


def recipe(*rules: Rule) -> Recipe:
    return Recipe(base="base", sources=STRUCTURE.hashes, rules=rules)


def everywhere(**weights: float) -> Rule:
    return Rule(match=".*", operator="task_arithmetic", params={"weight": weights})


def adopt(recipe: Recipe) -> FakeRecipeHandle:
    return FakeRecipeEngine(CONFIG).adopt(recipe)


def test_at_the_optimum_everything_is_known() -> None:
    handle = adopt(recipe(everywhere(**optimum("adding", ["french", "sums"]))))
    assert handle.quality("adding") == 1
    found = evaluate_tasks(handle, [TASK], {"write": SearchItems(ITEMS)})
    assert found.tasks["write"].mean == 1
    assert 0 < handle.quality("another skill") < 1


@given(weights, weights, st.integers(0, 3))
def test_nowhere_is_better_than_the_optimum(french: float, sums: float, layer: int) -> None:
    top = optimum("adding", ["french", "sums"])
    one = Rule(match=rf".*layers\.{layer}\..*", operator="task_arithmetic", params={"weight": {"sums": sums}})
    for rules in ((everywhere(french=french, sums=sums),), (one, everywhere(**top))):
        assert adopt(recipe(*rules)).quality("adding") <= 1


def test_quality_rises_all_the_way_to_the_optimum() -> None:
    top = optimum("adding", ["french", "sums"])
    steps = [
        adopt(recipe(everywhere(**{name: part / 10 * weight for name, weight in top.items()}))).quality("adding")
        for part in range(11)
    ]
    assert steps == sorted(set(steps))
    found = evaluate_tasks(adopt(recipe()), [TASK], {"write": SearchItems(ITEMS)})
    assert found.tasks["write"].mean == pytest.approx(steps[0], abs=0.1)


def test_a_fingerprint_is_of_the_coefficients_whatever_the_rules_and_the_names() -> None:
    rule = everywhere(french=0.5, sums=0.25)
    halved = Rule(match=".*", operator="task_arithmetic", params={"weight": {"french": 1.0, "sums": 0.5}, "scale": 0.5})
    renamed = Recipe(
        base="w0",
        sources={"w0": STRUCTURE.hashes["base"], "f": STRUCTURE.hashes["french"], "s": STRUCTURE.hashes["sums"]},
        rules=(everywhere(f=0.5, s=0.25),),
    )
    same = {adopt(one).fingerprint for one in (recipe(rule), recipe(halved), recipe(rule, everywhere()), renamed)}
    assert len(same) == 1
    assert same.isdisjoint({adopt(recipe(everywhere(french=0.5))).fingerprint})
    silent = FakeRecipesConfig(kind="fake_recipes", vouches=False)
    assert FakeRecipeEngine(silent).adopt(recipe(rule)).fingerprint is None


def test_its_sources_are_described_without_weights() -> None:
    assert STRUCTURE.num_layers == 4
    assert STRUCTURE.experts == ("french", "sums")
    assert len(set(STRUCTURE.hashes.values())) == 3
    assert STRUCTURE.from_json(STRUCTURE.to_json()) == STRUCTURE
    require_matches(recipe(everywhere(french=1.0)), STRUCTURE.tensors, where="test")
    with pytest.raises(InputError, match="no such source"):
        CONFIG.describe_sources("models/base", {})


def test_it_fails_as_told() -> None:
    with pytest.raises(EngineError, match="does not start"):
        build_recipe_engine(FakeRecipesConfig(kind="fake_recipes", fail="start"))
    handle = build_recipe_engine(FakeRecipesConfig(kind="fake_recipes", fail="answer", fail_at=2)).adopt(recipe())
    requests = TASK.requests(ITEMS[0])
    first = handle.answer(requests)
    with pytest.raises(EngineError, match="fails in answer 2"):
        handle.answer(requests)
    assert handle.answer(requests) == first


def test_what_an_engine_takes_is_known_without_its_module() -> None:
    assert {name: ENGINES[name].takes for name in ("vllm", "transformers", "fake", "fake_recipes")} == {
        "vllm": "weights",
        "transformers": "weights",
        "fake": "weights",
        "fake_recipes": "recipe",
    }
    with pytest.raises(AssertionError, match="takes no weights"):
        build_engine(CONFIG, Path())
    with pytest.raises(AssertionError, match="takes no recipes"):
        build_recipe_engine(FakeConfig(kind="fake"))


@pytest.mark.parametrize(("config", "takes"), [(FakeConfig, "recipe"), (FakeRecipesConfig, "weights")])
def test_settings_and_registration_agree_on_what_an_engine_takes(config: type, takes: str) -> None:
    with pytest.raises(TypeError, match="RecipeEngineConfig"):
        EnginePart(config=config, takes=takes, make="nowhere:Engine")  # type: ignore[arg-type]
