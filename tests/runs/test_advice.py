"""Whoever follows the advice of a message gets on: each is carried out, by its own words where it names a value."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_runs import write_spec

from crossbreed.errors import InputError
from crossbreed.runs import load_spec
from crossbreed.runs.check import check_spec

Follow = Callable[[str], list[str]]
TWO = "fitness.objectives=[{task: red}, {task: blue}]"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    return write_spec(tmp_path_factory.mktemp("spec"), base=toy_base, experts=toy_adapters, trials=2)


def named(fix: str) -> str:
    """The first thing in back-quotes."""
    found = re.search(r"`([^`]+)`", fix)
    assert found, fix
    return found[1]


def instead(key: str) -> Follow:
    """Gives a key the value that the advice has in back-quotes."""
    return lambda fix: [f"{key}={named(fix)}"]


ADVICE: dict[str, tuple[list[str], str, Follow]] = {
    "misspelt operator": (["space.operator=task_aritmetic"], "did you mean", instead("space.operator")),
    "misspelt key": (
        ["optimizer.budgets={trials: 2}"],
        "did you mean",
        lambda fix: [f"optimizer.{named(fix)}={{trials: 3}}"],
    ),
    "misspelt kind": (["optimizer.kind=cma_se"], "did you mean", instead("optimizer.kind")),
    "misspelt metric": (["fitness.tasks.0.metric=exact_mach"], "did you mean", instead("fitness.tasks.0.metric")),
    "misspelt task": (
        ["fitness.objectives=[{task: redd}]"],
        "write `",
        lambda fix: [f"fitness.objectives=[{{task: {named(fix)}}}]"],
    ),
    "counts above the items": (
        ["fitness.split={search: 9000, select: 2, report: 2}"],
        "lower the counts",
        lambda fix: ["fitness.split={search: 9, select: 2, report: 2}"],
    ),
    "two objectives": ([TWO], "use `kind: nsga2`", lambda fix: [TWO, "optimizer.kind=nsga2", "optimizer.options={}"]),
    "two objectives of one": (
        [TWO],
        "`{mean: [TASKS]}`",
        lambda fix: ["fitness.objectives=[{mean: [red, blue]}]"],
    ),
    "another space": (
        ["optimizer.kind=m2n2", "optimizer.options={}"],
        "another space, such as",
        lambda fix: ["optimizer.kind=m2n2", "optimizer.options={}", "space={kind: lineage}"],
    ),
    "more bands than layers": (["space.groups={layers: 90}"], "", lambda fix: ["space.groups={layers: 2}"]),
    "an expert named base": (["sources.experts={base: x}"], "", lambda fix: []),
    "unquoted": (["name=7"], "quote it", lambda fix: [f"name={fix.removeprefix('quote it: ')}"]),
    "a literal brace": (
        ["fitness.tasks.0.prompt='{\"a\": 1} {q}'"],
        "double a literal brace: {{ and }}",
        lambda fix: ["fitness.tasks.0.prompt='{{\"a\": 1}} {q}'"],
    ),
    "a field that is not there": (
        ["fitness.tasks.0.prompt='{question}'"],
        "correct the field's name",
        lambda fix: ["fitness.tasks.0.prompt='{q}'"],
    ),
    "system without template": (
        ["fitness.tasks.0.system=Be brief."],
        "chat_template: true",
        lambda fix: ["fitness.tasks.0.system=Be brief.", f"fitness.tasks.0.{fix.replace(': ', '=')}"],
    ),
    "a density of 2": (["space.density=[0.1, 2]", "space.operator=ties"], "", lambda fix: ["space.operator=ties"]),
    "a setting of no operator": (["space.params={lambda: [0, 1]}"], "", lambda fix: []),
}


@pytest.mark.parametrize("advice", ADVICE)
def test_advice_helps(spec: Path, advice: str) -> None:
    wrong, words, follow = ADVICE[advice]
    with pytest.raises(InputError) as caught:
        check_spec(load_spec(spec, wrong))
    fix = caught.value.fix or str(caught.value)  # of the first of several mistakes
    assert words in fix
    check_spec(load_spec(spec, follow(fix)))


LINE = '{"q": "new", "a": "1"}'
FILES: dict[str, tuple[str, str, str, str]] = {
    "not JSON": ("jsonl", "{'q': 1}", "write one JSON object per line", LINE),
    "an item twice": ("jsonl", f"{LINE}\n{LINE}", "delete one", LINE),
    "a field is null": ("jsonl", '{"q": null, "a": "1"}', "write it as a text", LINE),
    "a gold is null": ("jsonl", '{"q": "new", "a": null}', "correct the item", LINE),
    "a field is missing": ("jsonl", '{"a": "1"}', "or the item", LINE),
    "a quote inside quotes": ("csv", '"new "x" y",1', "double a quote", '"new ""x"" y",1'),
    "a comma in a cell": ("csv", "new, x,1", "quote cells", '"new, x",1'),
}


@pytest.mark.parametrize("advice", FILES)
def test_advice_about_items_helps(spec: Path, tmp_path: Path, advice: str) -> None:
    ending, wrong, words, right = FILES[advice]
    file = tmp_path / f"items.{ending}"
    lines = (
        ["q,a", *(f"{i},{i}" for i in range(60))]
        if ending == "csv"
        else [f'{{"q": "{i}", "a": "{i}"}}' for i in range(60)]
    )
    changes = [f"fitness.tasks.0.items={file}"]
    file.write_text("\n".join([*lines, wrong]) + "\n")
    with pytest.raises(InputError) as caught:
        check_spec(load_spec(spec, changes))
    assert words in caught.value.fix
    file.write_text("\n".join([*lines, right]) + "\n")
    check_spec(load_spec(spec, changes))
