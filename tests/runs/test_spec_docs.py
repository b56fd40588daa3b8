from pathlib import Path

from crossbreed.runs.spec.docs_page import render

PAGE = Path(__file__).parents[2] / "docs/spec.md"


def test_the_page_is_what_the_models_say() -> None:
    assert PAGE.read_text() == render(), "if the change is meant: python -m crossbreed.runs.spec.docs_page"


def test_every_key_is_explained() -> None:
    silent = [line for line in render().splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert [line for line in silent if not line.startswith(("| `kind`", "| `budget`", "| `options`"))] == []
