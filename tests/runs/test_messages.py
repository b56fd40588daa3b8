"""What a wrong spec is told: the key as `--set` takes it, what was expected there, and one thing at a time."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossbreed.errors import InputError, Mistakes
from crossbreed.runs import load_spec, parse_spec
from crossbreed.yaml_files import read_yaml

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
        ({"space__operator": "tis"}, "unknown operator `tis`", "space.operator in spec.yaml", "did you mean `ties`?"),
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
        ({"artifacts": {"grams": {}}}, "`artifacts.grams` collects Grams", "artifacts.grams in", ""),
    ],
)
def test_a_key_that_is_wrong(changes: dict[str, Any], problem: str, where: str, fix: str) -> None:
    said = told(**changes)
    assert said.problem.startswith(problem)
    assert said.where.startswith(where)
    assert fix in said.fix


def test_a_misspelt_key_is_one_mistake_with_the_one_that_it_should_be() -> None:
    said = told(fitness__tasks__0__answer=..., fitness__tasks__0__anser="a")
    assert said.problem == "unknown key `anser`"


WRONG = """\
name: [a]
seed: -1
sources:
  base: base
  experts: {a: a, "b\\tc": b}
presett: m2n2
space: {operator: [ties, tis]}
optimizer: {kind: random, budget: {trials: none, minuts: 3}}
fitness:
  engine: {kind: fake}
  tasks:
    - {name: t, kind: generate, items: x.jsonl, promptt: "{q}", answer: a, metric: numbr}
    - {name: t, kind: generate, items: x.jsonl, prompt: "{q}", answer: a}
  objectives: [{task: u}, {mean: [t, v]}]
  split: {search: 3, select: 3}
"""


def mistakes_of(path: Path, *overrides: str) -> Mistakes:
    with pytest.raises(Mistakes) as caught:
        load_spec(path, overrides)
    return caught.value


def test_every_mistake_is_told_with_its_key_and_line(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(WRONG)
    said = mistakes_of(path)
    assert [(error.problem.split(":")[0], error.where.removesuffix(f" in {path}")) for error in said.errors] == [
        (problem, f"{key} in {path}, line {line}".removeprefix(" in "))
        for problem, key, line in (
            ("`name` is wrong", "", 1),
            ("`seed` is wrong", "", 2),
            ("`sources.experts.b\tc` is wrong", "", 5),
            ("unknown key `presett`", "", 6),
            ("unknown operator `tis`", "space.operator", 7),
            ("`optimizer.budget.trials` is wrong", "", 8),
            ("unknown key `minuts`", "optimizer.budget", 8),
            ("unknown metric `numbr`", "fitness.tasks.0.metric", 12),
            ("unknown key `promptt`", "fitness.tasks.0", 12),
            ("`fitness.split.report` is missing", "", 15),
            ("`fitness.tasks` is wrong", "", 11),
        )
    ]


def test_several_mistakes_fit_a_screen(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(WRONG)
    lines = str(mistakes_of(path)).splitlines()
    assert lines[0] == f"11 mistakes in {path}"
    assert len(lines) < 24
    assert lines[-2].startswith("11. `fitness.tasks` is wrong: two tasks have the name 't'")
    path.write_text(WRONG + "".join(f"  key{i}: 1\n" for i in range(100)))
    lines = str(mistakes_of(path)).splitlines()
    assert (len(lines) < 24, lines[-2][:4], lines[-1]) == (True, "16. ", "... and 95 more")


def test_mistakes_survive_pickling() -> None:
    said = Mistakes([InputError("a", where="b"), InputError("c", fix="d")], where="e")
    assert str(pickle.loads(pickle.dumps(said))) == str(said)


def test_objectives_and_tasks_are_checked_beside_other_mistakes(tmp_path: Path) -> None:
    raw = yaml.safe_load(SPEC)
    raw["seed"] = "x"
    raw["fitness"]["objectives"] = [{"task": "t"}, {"task": "u"}, {"mean": ["t", "v"]}]
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw))
    wheres = [error.where.split(" in ")[0] for error in mistakes_of(tmp_path / "spec.yaml").errors]
    assert sorted(wheres)[1:] == ["fitness.objectives.1", "fitness.objectives.2"]


def test_a_preset_that_is_unknown_hides_no_other_mistake(tmp_path: Path) -> None:
    raw = yaml.safe_load(SPEC)
    del raw["space"], raw["optimizer"]
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({**raw, "preset": "m2n3", "seed": "x"}))
    problems = [error.problem for error in mistakes_of(tmp_path / "spec.yaml").errors]
    assert problems[0] == "unknown preset `m2n3`"
    assert problems[1].startswith("`seed` is wrong")
    assert len(problems) == 2


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def test_overrides_go_through_names_and_numbers(spec: Path) -> None:
    raw = yaml.safe_load(SPEC)
    raw["sources"]["experts"]["llama-3.1"] = "c"
    raw["fitness"]["tasks"].append({**raw["fitness"]["tasks"][0], "name": "gsm8k.fr"})
    spec.write_text(yaml.safe_dump(raw))
    loaded = load_spec(
        spec,
        [
            "fitness.tasks.t.items=/one.jsonl",
            "fitness.tasks.1.items=/two.jsonl",
            "fitness.tasks.gsm8k.fr.max_tokens=7",
            "sources.experts.llama-3.1=/three",
            "fitness.tasks.0.few_shot=[{q: x, a: y}]",
            "fitness.tasks.t.few_shot.0.a=z",
            "optimizer.options={}",
        ],
    )
    assert [task.items for task in loaded.fitness.tasks] == ["/one.jsonl", "/two.jsonl"]
    assert loaded.fitness.tasks[1].max_tokens == 7
    assert loaded.fitness.tasks[0].few_shot == [{"q": "x", "a": "z"}]
    assert loaded.sources.experts["llama-3.1"] == "/three"


@pytest.mark.parametrize(
    ("override", "problem", "fix"),
    [
        ("sead=1", "unknown key `sead`", "did you mean `seed`?"),
        ("optimzer.budget.trials=5", "unknown key `optimzer`", "did you mean `optimizer`?"),
        ("optimizer.budget.trails=5", "unknown key `trails`", "did you mean `trials`?"),
        ("fitness.tasks.0.itemz=x", "unknown key `itemz`", "did you mean `items`?"),
        ("fitness.tasks.u.items=x", "a list has no entry `u`", ""),
        ("fitness.tasks.7.items=x", "a list has no entry `7`", ""),
        ("optimizer.budget.trials=many", "`optimizer.budget.trials` is wrong", ""),
        ("seed.x=1", "`seed` holds no keys", "--set seed=VALUE"),
        ("=1", "an override names no key", ""),
        ("seed", "an override has no value", ""),
    ],
)
def test_a_mistake_of_an_override_is_placed_there(spec: Path, override: str, problem: str, fix: str) -> None:
    spec.write_text(SPEC + "seed: 3\n")
    with pytest.raises(InputError) as caught:
        load_spec(spec, [override])
    assert caught.value.problem.startswith(problem)
    assert f"--set {override}" in caught.value.where
    assert str(spec) not in caught.value.where
    assert fix in caught.value.fix


COMMA = "a comma divides elements: write decimals after a point, as in 0.5"


def test_decimal_commas_that_make_one_key_of_two_are_named() -> None:
    with pytest.raises(InputError, match="the key `2` stands twice") as caught:
        read_yaml("{search: 0,2, select: 0,2, report: 0,6}", what="the spec", where="spec.yaml")
    assert caught.value.fix == COMMA


@pytest.mark.parametrize(
    ("written", "key", "fix"),
    [
        ("space: {weight: [-0,5, 1,5]}", "space.weight", COMMA),
        ("space: {weight: [0, 1,5]}", "space.weight", COMMA),
        ("space: {operator: ties, params: {scale: [0,5, 1,5]}}", "space.params.scale", COMMA),
        ("space:\n  operator: ties\n  params:\n    scale: 0,5", "space.params.scale", COMMA),
        ("fitness:\n  split:\n    search: 0,2", "fitness.split.search", COMMA),
        ("fitness: {split: {search: 0,2, select: 0,3, report: 0,5}}", "fitness.split", COMMA),
        (
            "optimizer: {kind: random, budget: {trials: '1,000'}}",
            "optimizer.budget.trials",
            "a comma divides elements: write 1000, or a decimal after a point",
        ),
        ("seed: [1, 2, 3]", "seed", "see docs/spec.md"),
        ("space: {weight: [1.5, -0.5]}", "space.weight", "see docs/spec.md"),
    ],
)
def test_decimal_commas_are_named(written: str, key: str, fix: str) -> None:
    raw = yaml.safe_load(SPEC)
    changes = read_yaml(written, what="changes", where="x")
    for section, value in changes.items():
        raw[section] = {**raw[section], **value} if isinstance(raw.get(section), dict) else value
    with pytest.raises(InputError) as caught:
        parse_spec(raw, folder=Path("/"), where="spec.yaml")
    assert key in str(caught.value)
    assert fix in {error.fix for error in caught.value.errors}


def test_mistakes_of_file_and_overrides_are_told_together(spec: Path) -> None:
    spec.write_text(SPEC + "sead: 3\n")
    said = mistakes_of(spec, "optimizer.budget.trails=5", "fitness.tasks.u.items=x")
    assert [error.where for error in said.errors] == [
        "--set fitness.tasks.u.items=x",
        "optimizer.budget in --set optimizer.budget.trails=5",
        f"{spec}, line 9",
    ]


def test_a_wrong_spec_is_not_printed_whole() -> None:
    assert told(artifacts={"grams": {}}).got == ""


def test_what_stands_behind_refused_keys_and_values_is_told_with_them(tmp_path: Path) -> None:
    """What concerns several keys is checked, too, where others are wrong."""
    raw = yaml.safe_load(SPEC)
    raw["sead"] = 1
    raw["fitness"]["tasks"][0] |= {"metric": "numbr", "max_tokens": 0, "chunck": 3}
    raw["fitness"]["objectives"] = [{"task": "u"}]
    raw["space"] = {"operator": "ties"}
    raw["artifacts"] = {"grams": {"itms": 3}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw))
    assert sorted(error.problem.split(":")[0] for error in mistakes_of(tmp_path / "spec.yaml").errors) == [
        "`artifacts.grams` collects Grams that `ties` does not read",
        "`fitness.tasks.0.max_tokens` is wrong",
        "an objective names the unknown task `u`",
        "unknown key `chunck`",
        "unknown key `itms`",
        "unknown key `sead`",
        "unknown metric `numbr`",
    ]


def test_a_value_that_is_only_guessed_is_not_told(tmp_path: Path) -> None:
    raw = yaml.safe_load(SPEC)
    raw["presett"] = "m2n2"
    raw["fitness"]["tasks"][0] |= {"metric": 3, "pattern": "x"}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw))
    problems = [error.problem.split(":")[0] for error in mistakes_of(tmp_path / "spec.yaml").errors]
    assert sorted(problems) == ["a metric is a name, or a mapping with one key", "unknown key `presett`"]


def test_mistakes_of_items_are_told_beside_those_of_the_spec(tmp_path: Path) -> None:
    raw = yaml.safe_load(SPEC)
    task = raw["fitness"]["tasks"][0] | {"prompt": "{q}", "answer": "a"}
    raw["fitness"]["tasks"] = [
        task | {"max_tokens": 0},  # asks the same as with its default
        task | {"name": "u", "items": "y.jsonl", "prompt": 3},  # asks what is not known
        task | {"name": "v", "items": "z.jsonl", "anser": "b"},
        {"name": "w", "kind": "generat", "items": "none.jsonl"},
    ]
    good = "".join(f'{{"q": "{i}", "a": "{i}"}}\n' for i in range(3))
    (tmp_path / "x.jsonl").write_text(good + '{"q": 1\n{"a": 5}\n[]\n' + '{"q": "7", "a": null}\n' * 2)
    (tmp_path / "y.jsonl").write_text(good + "".join(f"{i}\n" for i in range(9)))
    (tmp_path / "z.jsonl").write_text(good)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(Mistakes) as caught:
        load_spec(tmp_path / "spec.yaml", with_items=True)
    lines = [
        (re.sub("`[0-9a-f]+`", "`...`", error.problem.split(":")[0]), error.where.rpartition("/")[2])
        for error in caught.value.errors
        if "jsonl" in error.where
    ]
    assert lines == [
        ("a line is not JSON", "x.jsonl, line 4"),
        ("a line is not a JSON object", "x.jsonl, line 6"),
        ("two items have the same content", "x.jsonl, lines 7 and 8"),
        ("item `...` has no field `q`", "x.jsonl, line 5"),
        ("the answer of item `...` can never be given", "x.jsonl, line 7"),
        *[("a line is not a JSON object", f"y.jsonl, line {line}") for line in range(4, 9)],
        ("and 4 more mistakes there", "y.jsonl"),
        ("the items cannot be read", "none.jsonl"),
    ]
    assert str(caught.value).startswith("19 mistakes in ")
    assert len(str(caught.value).splitlines()) < 24


def test_what_only_follows_from_another_mistake_is_not_told(tmp_path: Path) -> None:
    raw = yaml.safe_load(SPEC)
    raw["space"] = {"groups": {"modules": ["atention"]}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(InputError, match=r"space\.groups\.modules\.0") as caught:
        load_spec(tmp_path / "spec.yaml")
    assert not isinstance(caught.value, Mistakes)
