"""Any files and folders of tests run together: no two of their modules share a name, and conftests are no modules."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def test_modules_of_tests_have_names_of_their_own() -> None:
    modules = [path.stem for path in TESTS.rglob("*.py") if "package" not in path.relative_to(TESTS).parts]
    assert [name for name, count in Counter(modules).items() if count > 1 and name != "conftest"] == []


def test_conftests_are_not_collected_as_modules(pytestconfig: pytest.Config) -> None:
    """`--doctest-modules` would import them all as `conftest`; tests/test_docs.py runs the examples of docstrings."""
    assert "--doctest-modules" not in pytestconfig.getini("addopts")


@pytest.mark.slow
def test_folders_are_collected_together() -> None:
    folders = sorted({path.parent for path in TESTS.glob("*/conftest.py")}, reverse=True)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *map(str, folders)]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
