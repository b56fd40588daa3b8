from pathlib import Path

from crossbreed.recipes.operators import OPERATORS
from crossbreed.runs.spec.docs_page import render

PAGE = Path(__file__).parents[2] / "docs/spec.md"


def test_the_page_is_what_the_models_say() -> None:
    assert PAGE.read_text() == render(), "if the change is meant: python -m crossbreed.runs.spec.docs_page"


def test_every_key_is_explained() -> None:
    silent = [line for line in render().splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert [line for line in silent if not line.startswith(("| `kind`", "| `budget`", "| `options`"))] == []


def test_operators_that_are_not_their_papers_say_so() -> None:
    for name in ("bmm", "metrics_weighted", "consensus", "regmean", "tsv_m"):
        section = render().partition(f"### {name}\n")[2].partition("###")[0]
        assert OPERATORS[name].spec.differs in section
    assert "Reconstructed" in OPERATORS["bmm"].spec.differs
    assert "reconstruction" in render().partition("- `bmm`")[2].partition("\n")[0]
