"""What a wrong spec is told: the key as `--set` takes it, what was expected there, and one thing at a time."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from crossbreed.errors import InputError
from crossbreed.runs import parse_spec

SPEC = """
sources: {base: base, experts: {a: a, b: b}}
optimizer: {kind: random, budget: {trials: 3}}
space: {}
fitness:
  engine: {kind: fake}
  tasks: [{name: t, kind: generate, items: x.jsonl, prompt: "{q}", answer: a}]
  split: {search: 3, select: 3, report: 3}
"""


def told(**changes: Any) -> InputError:
    """What is said of the spec with other values at dotted keys (`__` for dots); `...` takes a key away."""
    raw = yaml.safe_load(SPEC)
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = raw
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    with pytest.raises(InputError) as caught:
        parse_spec(raw, folder=Path("/"), where="spec.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("changes", "problem", "where", "fix"),
    [
        ({"sead": 1}, "unknown key `sead`", "spec.yaml", "did you mean `seed`?"),
        ({"presett": "m2n2"}, "unknown key `presett`", "spec.yaml", "did you mean `preset`?"),
        ({"fitness__task": []}, "unknown key `task`", "fitness in spec.yaml", "did you mean `tasks`?"),
        ({"fitness__tasks__0__stopp": "x"}, "unknown key `stopp`", "fitness.tasks.0 in spec.yaml", "mean `stop`?"),
        ({"optimizer__options": {"a": 1}}, "unknown key `a`", "optimizer.options in spec.yaml", "remove it"),
        ({"optimizer__kind": "randm"}, "unknown optimizer `randm`", "optimizer in spec.yaml", "mean `random`?"),
        ({"fitness__engine": {}}, "the engine has no `kind`", "fitness.engine in spec.yaml", "add `kind:`"),
        ({"fitness__tasks__0__metric": "numbr"}, "unknown metric `numbr`", "fitness.tasks.0.metric in", "`number`?"),
        ({"space__operator": "tis"}, "unknown operator `tis`", "space in spec.yaml", "did you mean `ties`?"),
        (
            {"space": {"operator": "ties", "params": {"densty": 0.5}}},
            "`densty` has no effect",
            "space.params.densty in spec.yaml",
            "did you mean `density`?; see `crossbreed list operators ties`",
        ),
        ({"space": {"density": [0.1, 0.5]}}, "`density` has no effect", "space.density in spec.yaml", "remove it; see"),
        (
            {"space": {"operator": "ties", "params": {"density": "1e-1"}}},
            "`density` must be a finite number",
            "space.params.density in spec.yaml",
            "YAML reads 1e-1 as text: write 1.0e-1",
        ),
        (
            {"space": {"operator": "ties", "params": {"density": 2.0}}},
            "`density` must be a finite number",
            "space.params.density in spec.yaml",
            "see `crossbreed list operators ties`",
        ),
        ({"optimizer": ...}, "`optimizer` is missing", "spec.yaml", "or a `preset` that includes it"),
        ({"optimizer__budget": ...}, "`optimizer.budget` is missing", "spec.yaml", "add it;"),
        ({"warm_start": "x"}, "`warm_start` must be a list", "spec.yaml", ""),
        ({"sources": 3}, "`sources` must be a mapping", "spec.yaml", ""),
        ({"optimizer": 3}, "the optimizer is not a mapping", "optimizer in spec.yaml", ""),
        ({"fitness__split__search": "x"}, "`fitness.split.search` is wrong: Input should be", "spec.yaml", ""),
        ({"workers": {"count": "many"}}, "`workers.count` is wrong", "spec.yaml", ""),
        ({"artifacts": {"grams": {}}}, "`artifacts.grams` collects Grams", "spec.yaml", ""),
    ],
)
def test_a_key_that_is_wrong(changes: dict[str, Any], problem: str, where: str, fix: str) -> None:
    said = told(**changes)
    assert said.problem.startswith(problem)
    assert said.where.startswith(where)
    assert fix in said.fix


def test_a_misspelt_key_comes_before_the_one_that_is_missing_for_it() -> None:
    said = told(optimizer__budget=..., fitness__tasks__0__promptt="x")
    assert said.problem == "unknown key `promptt` (and 1 more)"


def test_a_wrong_spec_is_not_printed_whole() -> None:
    assert told(artifacts={"grams": {}}).got == ""
