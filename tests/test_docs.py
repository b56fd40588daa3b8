"""What the pages say can be followed: links lead somewhere, and examples are what they claim to be."""

import doctest
import importlib
import json
import pkgutil
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossbreed.recipes import parse_recipe
from crossbreed.runs import load_spec, parse_spec
from crossbreed.runs.spec.criteria import build_criteria
from crossbreed.runs.spec.listing import REGISTRIES

ROOT = Path(__file__).parents[1]
PAGES_THAT_RUN = [ROOT / "docs/python.md"]
PAGES = [ROOT / "README.md", ROOT / "LOG.md", *sorted((ROOT / "docs").glob("*.md"))]

SPEC = """
space: {operator: task_arithmetic}
optimizer: {kind: random, budget: {trials: 2}}
fitness:
  engine: {kind: fake}
  tasks: [{name: squares, kind: generate, items: squares.jsonl, prompt: "squares|{question}|{answer}", answer: answer}]
  split: {search: 20, select: 16, report: 24}
workers: {executor: local}
"""


def headings(page: Path) -> set[str]:
    """The anchors that Markdown renderers give a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


FILE = re.compile(r"[\w./-]+\.(py|hpp|cpp|md)|\w[\w/]*/")
"""What names a file or a folder of the tree; other files that pages name lie in run folders."""
DOTTED = re.compile(r"crossbreed(\.\w+)+")
MADE_BY_USERS = {"README.md", "answers/"}
"""Files of run folders and models that look like files of the tree."""
NO_NAMES = {"crossbreed.json"}
"""Files that look like names in full."""


def in_backticks(page: Path, pattern: re.Pattern[str]) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {found for found in re.findall(r"`([^`\n]+)`", text) if pattern.fullmatch(found)}


def tree() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [f"/{path}" for path in listed.splitlines()]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "LOG.md"], ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    paths = tree()
    for name in in_backticks(page, FILE) - MADE_BY_USERS:
        found = (f"/{name}" in path if name.endswith("/") else path.endswith(f"/{name}") for path in paths)
        assert any(found), f"`{name}` is no file of the tree"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "LOG.md"], ids=lambda page: page.name)
def test_names_that_a_page_gives_in_full_exist(page: Path) -> None:
    for name in in_backticks(page, DOTTED) - {registry.group for registry in REGISTRIES.values()} - NO_NAMES:
        pkgutil.resolve_name(name)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link} is no file"
        assert not anchor or anchor in headings(target), f"{link} is no heading"


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) < 1000


def test_the_example_of_a_run_is_one() -> None:
    (example,) = blocks(ROOT / "README.md", "yaml")
    shown = parse_spec(yaml.safe_load(example), folder=ROOT / "examples/smollm2")
    demo = ROOT / "examples/smollm2/demo.yaml"
    assert shown == parse_spec(yaml.safe_load(demo.read_text()), folder=demo.parent)


SPECS = sorted(path for path in (ROOT / "examples/smollm2").glob("*.yaml") if path.stem != "provider")


@pytest.mark.parametrize("example", SPECS, ids=lambda path: path.stem)
def test_each_spec_of_the_zoo_is_one(example: Path) -> None:
    spec = load_spec(example)
    build_criteria(spec.fitness.objectives, spec.fitness.constraints, spec.fitness.tasks)


def test_the_readme_s_python_runs_a_spec_file(
    toy_base: Path, toy_experts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"id": f"q{n}", "question": n, "answer": f"{n * n}"}) for n in range(60)]
    Path("squares.jsonl").write_text("\n".join(lines))
    sources = {"base": str(toy_base), "experts": {name: str(path) for name, path in toy_experts.items()}}
    Path("spec.yaml").write_text(yaml.safe_dump({"sources": sources, **yaml.safe_load(SPEC)}))
    (example,) = blocks(ROOT / "README.md", "python")
    found: dict[str, Any] = {}
    exec(example, found)
    assert found["report"].winner.value.n > 0
    assert (tmp_path / "runs/mine/report.json").exists()


@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=lambda page: page.name)
def test_examples_give_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert not failed
    assert tried > 0


MODULES_WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "crossbreed").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES_WITH_EXAMPLES)
def test_examples_in_docstrings_give_what_they_show(name: str) -> None:
    assert not doctest.testmod(importlib.import_module(name)).failed


def test_an_example_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```python\n>>> 1 + 1\n3\n\n```\n")
    assert doctest.testfile(str(tmp_path / "page.md"), module_relative=False, verbose=False).failed == 1


def test_the_example_of_a_recipe_is_one() -> None:
    example = blocks(ROOT / "docs/recipe.md", "yaml")[0]
    assert len(parse_recipe(yaml.safe_load(example)).rules) == 2
