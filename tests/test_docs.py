"""What the pages say can be followed: links lead somewhere, and examples are what they claim to be."""

import re
from pathlib import Path

import pytest
import yaml

from crossbreed.recipes import parse_recipe
from crossbreed.runs import parse_spec

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "LOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def headings(page: Path) -> set[str]:
    """The anchors that Markdown renderers give a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def yaml_blocks(page: Path) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link} is no file"
        assert not anchor or anchor in headings(target), f"{link} is no heading"


def test_the_example_of_a_run_is_one() -> None:
    (example,) = yaml_blocks(ROOT / "README.md")
    shown = parse_spec(yaml.safe_load(example), folder=ROOT / "examples/smollm2")
    demo = ROOT / "examples/smollm2/demo.yaml"
    assert shown == parse_spec(yaml.safe_load(demo.read_text()), folder=demo.parent)


def test_the_example_of_a_recipe_is_one() -> None:
    example = yaml_blocks(ROOT / "docs/recipe.md")[0]
    assert len(parse_recipe(yaml.safe_load(example)).rules) == 2
