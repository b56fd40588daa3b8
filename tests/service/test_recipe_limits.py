"""A stranger's recipe is refused before anything is made of it, and in bounded time."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from crossbreed.recipes.operators import OPERATORS
from crossbreed.runs.spec.serve import RecipeLimits
from crossbreed.service.recipes import RecipeRules
from crossbreed.service.refusals import Refusal

HASHES = {"base": "h0", "one": "h1", "two": "h2"}
Change = Callable[[dict[str, Any]], None]


def rules(**limits: Any) -> RecipeRules:
    return RecipeRules(limits=RecipeLimits.model_validate(limits), hashes=HASHES)


def recipe(**changes: Any) -> dict[str, Any]:
    rule = {"match": ".*", "operator": "task_arithmetic", "params": {"weight": {"one": 0.5}}}
    return {"schema": 1, "base": "base", "sources": dict(HASHES), "rules": [rule], **changes}


def ruled(**changes: Any) -> dict[str, Any]:
    return recipe(rules=[{**recipe()["rules"][0], **changes}])


def test_a_recipe_within_limits_is_taken() -> None:
    assert rules().parse(recipe()).sources == HASHES
    assert rules().parse(recipe(sources={"base": "h0", "one": "h1"})).base == "base"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no recipe": ({}, "4 mistakes"),
    "path": (recipe(sources={**HASHES, "/etc/passwd": "h"}), "sources"),
    "dots": (recipe(sources={"base": "h0", "../../one": "h1"}), "no source"),
    "unknown source": (recipe(sources={"base": "h0", "three": "h1"}), "no source"),
    "other hash": (recipe(sources={**HASHES, "one": "h2"}), "not the model"),
    "other base": (recipe(base="one"), "base"),
    "unknown expert in a rule": (ruled(params={"weight": {"three": 1.0}}), "three"),
    "10^6 rules": (recipe(rules=recipe()["rules"] * 10**6), "at most 2000 rules"),
    "many large rules": (
        recipe(rules=[{**recipe()["rules"][0], "match": "." * 60 + str(n)} for n in range(900)]),
        "8000",
    ),
    "large patterns": (ruled(match="a" * 300_000), "characters"),
    "counted repetition": (ruled(match="(a{1000}){1000}"), "does not compile"),
    "unicode class": (ruled(match=r"\w+" * 300), "does not compile"),
    "look-behind": (ruled(match="(?<=a)b"), "does not compile"),
    "back-reference": (ruled(match=r"(a)\1"), "regular expression"),
    "broken pattern": (ruled(match="("), "regular expression"),
    "pattern is no text": (ruled(match=["a"]), "regular expression"),
    "many negated ASCII classes": (ruled(match="[[:^alpha:]]" * 65), "more than"),
    "many classes beyond ASCII": (ruled(match="[!-\U0010fffe]" * 65), "more than"),
    "many wide": (ruled(match="." * 1000), "more than"),
    "NaN": (ruled(params={"weight": {"one": float("nan")}}), "finite"),
    "infinite": (ruled(params={"weight": {"one": float("inf")}}), "finite"),
    "huge": (ruled(params={"weight": {"one": 1e300}}), "from -10 to 10"),
    "huge integer": (ruled(params={"weight": {"one": 10**400}}), "finite"),
    "huge for all": (ruled(params={"weight": -11}), "from -10 to 10"),
    "artifacts": (recipe(artifacts={"grams": "/tmp/x"}), "artifacts"),
    "unknown operator": (ruled(operator="os.system"), "operator"),
    "operator of artifacts": (ruled(operator="bmm", params={"weight": 1.0, "grams": "data"}), "needs Grams"),
    "unknown key": (recipe(host="/"), "unknown key"),
    "dtype": (recipe(dtype="float64"), "dtype"),
    "rules are no list": (recipe(rules={"a": 1}), "rules"),
    "sources are no mapping": (recipe(sources=["base"]), "sources"),
    "surrogates": (recipe(base="\ud800"), "base"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_is_refused_with_a_reason(name: str) -> None:
    raw, word = BAD[name]
    with pytest.raises(Refusal) as refusal:
        rules().parse(raw)
    assert (refusal.value.status, refusal.value.code) == (400, "recipe_refused")
    assert word in refusal.value.message
    refusal.value.response()


def test_limits_are_the_providers() -> None:
    own = rules(operators=["ties"], coefficients=[0, 1], rules=1)
    assert own.operators == ("ties",)
    assert own.told.coefficients == (0, 1)
    with pytest.raises(Refusal, match="does not merge with `task_arithmetic`"):
        own.parse(recipe())
    ties = {"operator": "ties", "params": {"weight": {"one": 0.5}, "density": 0.5}}
    assert own.parse(ruled(**ties)).rules[0].operator == "ties"
    with pytest.raises(Refusal, match="from 0 to 1"):
        own.parse(ruled(**{**ties, "params": {"weight": {"one": -0.5}, "density": 0.5}}))
    seeded = {"operator": "dare_ties", "params": {"weight": 0.5, "density": 0.5, "seed": 4_000_000_000}}
    assert rules().parse(ruled(**seeded)).rules[0].params["seed"] == 4e9, "a seed is no coefficient"
    with pytest.raises(Refusal, match="at most 1 rules"):
        own.parse(recipe(rules=recipe()["rules"] * 2))
    assert rules().operators == tuple(OPERATORS)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a*)*" * 500, "(x+x+)+y", ".*" * 60, "(.*a)" * 60])
def test_patterns_cannot_run_away(pattern: str) -> None:
    from crossbreed.patterns import full_matcher

    began_s = time.process_time()
    rules().parse(ruled(match=pattern))
    full_matcher(pattern)("a" * 5000)
    assert time.process_time() - began_s < 1


def test_the_costliest_patterns_that_are_taken_compile_in_bounded_time() -> None:
    rule = recipe()["rules"][0]
    worst = [{**rule, "match": r"[^a]\d\s" * 21 + str(n)} for n in range(126)]
    began_s = time.process_time()
    rules().parse(recipe(rules=worst))
    assert time.process_time() - began_s < 3


SWUDI = {"match": ".*", "operator": "swudi", "params": {"weight": 0.5}}


def with_params(**params: Any) -> dict[str, Any]:
    return recipe(rules=[{**SWUDI, "params": {**SWUDI["params"], **params}}])


def test_what_is_no_coefficient_has_the_range_of_its_operator() -> None:
    """Every operator's own defaults and searched ranges are within what the service's own defaults allow."""
    assert rules().parse(with_params(time=300.0, steps=150)).rules
    told = rules(operators=["swudi", "bmm"], coefficients=[-2, 3]).told
    assert told.ranges == {"swudi.time": (10.0, 1e4), "swudi.steps": (10.0, 1e3), "bmm.lambda": (0.001, 1e3)}
    for name in OPERATORS.ours:
        for param in OPERATORS[name].spec.params:
            for value in (param.default, *(param.search or ())):
                if isinstance(value, int | float) and not isinstance(value, bool):
                    rules()._check_numbers(OPERATORS[name].spec, param.name, value, "rules[0]")


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"time": 20_000.0}, "`time` must be from 10 to 10000 here, got 20000"),
        ({"scale": 11.0}, "`scale` must be from -10 to 10 here, got 11"),
        ({"weight": {"one": 12.0}}, "`weight.one` must be from -10 to 10 here, got 12"),
    ],
)
def test_a_limit_is_said_with_what_is_beyond_it(params: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal, match=re.escape(said)):
        rules().parse(with_params(**params))
