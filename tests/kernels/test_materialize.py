"""The stream: what it yields, what it leaves alone, what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merges import COUNTER, UP, inputs_of_tensors, opened, recipe_of

from crossbreed.errors import InputError, InvalidWeights
from crossbreed.kernels import ARITHMETIC, materialize, unchanged
from crossbreed.kernels.executors import execute
from crossbreed.kernels.materialize import check_recipe
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.recipes.operators import OPERATORS as DECLARED
from crossbreed.sources import Sources
from crossbreed.types import Rule


def test_every_declared_operator_has_arithmetic() -> None:
    assert ARITHMETIC.keys() == OPERATOR_SPECS.keys()


def test_yields_every_tensor_sorted_in_the_recipe_s_dtype(sources: Sources) -> None:
    merged = list(materialize(recipe_of(sources, "task_arithmetic", weight=0.3, dtype="float16"), sources))
    assert [name for name, _ in merged] == sorted(sources.base.tensors)
    for name, tensor in merged:
        assert tensor.shape == sources.base.tensors[name].shape
        assert tensor.dtype == (torch.int64 if name == COUNTER else torch.float16)


def test_untouched_and_unmatched_tensors_are_the_base_s_own_memory(sources: Sources) -> None:
    only_mlp = replace(recipe_of(sources, "ties", weight={"mlp": 1.0, "p": 0.5}), dtype="bfloat16")
    merged = dict(materialize(only_mlp, sources))
    own = {name for name, tensor in merged.items() if tensor.data_ptr() == sources.base.tensor(name).data_ptr()}
    assert own == {name for name in merged if "_proj" not in name}


def test_what_is_not_wanted_is_not_made(sources: Sources) -> None:
    nonsense = recipe_of(sources, "linear", match=r".*up_proj\.weight", weight={"a": 0.5, "b": -0.5})
    assert dict(materialize(nonsense, sources, without={UP})).keys() == sources.base.tensors.keys() - {UP}
    with pytest.raises(InvalidWeights):
        list(materialize(nonsense, sources))


RULES = st.lists(
    st.builds(
        Rule,
        match=st.sampled_from([".*", r".*attn.*", r".*mlp.*", r".*up_proj\.weight", r".*norm.*"]),
        operator=st.sampled_from(["linear", "task_arithmetic", "ties"]),
        params=st.sampled_from([{"weight": 0.5}, {"weight": {"p": 0.5}}, {"weight": {"a": 1.0, "p": -0.25}}]),
    ),
    max_size=3,
).map(tuple)


@given(before=RULES, after=RULES, names=st.sampled_from(["ap", "pq"]))
@settings(max_examples=25, deadline=None)
def test_what_is_unchanged_has_the_same_bits(
    models: dict[str, Path], before: tuple[Rule, ...], after: tuple[Rule, ...], names: str
) -> None:
    sources = opened(models, {name: name for name in names})
    plain = recipe_of(sources, "linear", weight=1.0)
    recipes = [replace(plain, rules=rules) for rules in (before, after)]
    old, new = (dict(materialize(recipe, sources)) for recipe in recipes)
    assert all(torch.equal(old[name], new[name]) for name in unchanged(*recipes, sources))


def test_unchanged_is_what_obeys_the_same_rule_or_is_the_base_s_own(models: dict[str, Path], sources: Sources) -> None:
    def changing(before: tuple[Rule, ...], after: tuple[Rule, ...], sources: Sources) -> set[str]:
        plain = recipe_of(sources, "linear", weight=1.0)
        return {*sources.base.tensors} - unchanged(replace(plain, rules=before), replace(plain, rules=after), sources)

    def rule(match: str, weight: float) -> Rule:
        return Rule(match=match, operator="ties", params={"weight": weight})

    rules = rule(".*attn.*", 0.5), rule(".*mlp.*", 0.5), rule(".*", 0.25)
    floats = {name for name in sources.base.tensors if name != COUNTER}
    adapters = opened(models, {"p": "p", "q": "q"})
    assert changing(rules, rules, sources) == set()
    assert changing(rules, (rules[0], rule(".*mlp.*", 0.4), rules[2]), sources) == {n for n in floats if "mlp" in n}
    assert changing(rules, (), sources) == floats
    assert changing(rules, (), adapters) == {name for name in floats if "_proj" in name}
    halves = Rule(match=".*", operator="linear", params={"weight": {"base": 0.5}, "normalize": False})
    assert changing(rules, (halves,), adapters) == floats


@pytest.mark.parametrize("change", [{"dtype": "float32"}, {"artifacts": {"grams": "01"}}, {"base": "b"}])
def test_of_other_sources_or_another_dtype_everything_may_change(sources: Sources, change: dict) -> None:
    recipe = recipe_of(sources, "task_arithmetic", weight=0.3)
    assert unchanged(recipe, recipe, sources) == sources.base.tensors.keys()
    assert unchanged(recipe, replace(recipe, **change), sources) == frozenset()


def test_non_float_tensors_are_copied(sources: Sources) -> None:
    merged = dict(materialize(recipe_of(sources, "linear", weight=0.3), sources))
    assert torch.equal(merged[COUNTER], torch.arange(5))


def test_the_first_matching_rule_wins_and_must_match_the_whole_name(sources: Sources) -> None:
    base, expert = sources.base, sources.experts["a"]
    first = recipe_of(sources, "task_arithmetic", match=r".*up_proj\.weight", weight={"a": 1.0}).rules
    later = recipe_of(sources, "task_arithmetic", match=r".*(up_proj|down_proj)", weight={"b": 1.0}).rules
    merged = dict(materialize(replace(recipe_of(sources, "linear", weight=1.0), rules=first + later), sources))
    assert torch.equal(merged[UP], expert.tensor(UP))
    assert all(torch.equal(tensor, base.tensor(name)) for name, tensor in merged.items() if name != UP)


def test_sources_are_found_by_hash_whatever_they_are_called(models: dict[str, Path], sources: Sources) -> None:
    renamed = opened(models, {"other": "b", "names": "a"})
    recipe = recipe_of(opened(models, {"a": "a", "b": "b"}), "task_arithmetic", weight={"a": 0.7, "b": 0.2})
    theirs, ours = dict(materialize(recipe, renamed)), dict(materialize(recipe, sources))
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


@pytest.mark.parametrize("name", ["base", "a"])
def test_another_source_than_the_recipe_s_is_refused_at_once(sources: Sources, name: str) -> None:
    recipe = recipe_of(sources, "task_arithmetic", weight=0.3)
    with pytest.raises(InputError, match=f"source `{name}` is not among"):
        materialize(replace(recipe, sources={**recipe.sources, name: "0123"}), sources)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("operator", "params"),
    [
        ("linear", {}),
        ("task_arithmetic", {}),
        ("ties", {}),
        ("ties", {"density": 0.001}),
        ("ties", {"density": 0.5, "normalize": False}),
    ],
)
@pytest.mark.parametrize("shape", [(5000,), (50, 100)])
def test_nan_and_inf_never_vanish(operator: str, params: dict, value: float, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    base, good, bad = torch.randn(3, *shape, generator=generator)
    bad.view(-1)[[3, 7]] = value
    inputs = inputs_of_tensors(base, {"good": good, "bad": bad})
    program = ARITHMETIC[operator](inputs, Rule(match=".*", operator=operator, params={"weight": 0.3, **params}))
    with pytest.raises(InvalidWeights, match="NaN or Inf"):
        execute(program, base, torch.bfloat16)


def test_overflow_of_the_recipe_s_dtype_is_invalid(sources: Sources) -> None:
    with pytest.raises(InvalidWeights, match=r"embed_tokens\.weight` of recipe [0-9a-f]+: the merge holds NaN or Inf"):
        list(materialize(recipe_of(sources, "task_arithmetic", weight=1e6, dtype="float16"), sources))


def test_an_operator_that_cannot_be_imported_is_refused_before_any_weight_is_read(sources: Sources) -> None:
    part = DECLARED["task_arithmetic"]
    absent = replace(part, spec=replace(part.spec, name="absent"), arithmetic="no_such_module:merge")
    with DECLARED.holding("absent", absent):
        recipe = recipe_of(sources, "absent", weight=0.3)
        for refusing in (check_recipe, materialize):
            with pytest.raises(InputError, match="of the operator `absent` cannot be imported"):
                refusing(recipe, sources)


def test_weights_that_sum_to_zero_cannot_be_normalised(sources: Sources) -> None:
    with pytest.raises(InvalidWeights, match="sum to 0"):
        list(materialize(recipe_of(sources, "linear", weight={"a": 0.5, "b": -0.5}), sources))
