"""docs/plugins.md shows the example package, file by file, and its own tests pass where it is installed."""

import re
from collections.abc import Iterator
from pathlib import Path

from example_package import PACKAGE, ROOT, python

PAGE = ROOT / "docs/plugins.md"
SHOWN = re.compile(r"^`(?P<file>[\w./]+)`:\n\n```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
"""A file's name, and its text in a block."""


def page_as_it_should_be() -> str:
    """The page, with every block as its file is."""

    def block(shown: re.Match[str]) -> str:
        return f"`{shown['file']}`:\n\n```{shown['language']}\n{(PACKAGE / shown['file']).read_text()}```"

    return SHOWN.sub(block, PAGE.read_text())


def files() -> Iterator[str]:
    """What is to be shown of the package."""
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix in (".py", ".toml", ".yaml") and path.name != "__init__.py":
            yield str(path.relative_to(PACKAGE))


def test_the_page_shows_every_file_of_the_package_as_it_is() -> None:
    assert PAGE.read_text() == page_as_it_should_be(), "if the change is meant: python tests/plugin/test_page.py"
    assert sorted(shown["file"] for shown in SHOWN.finditer(PAGE.read_text())) == sorted(files())


def test_the_page_names_every_group_of_entry_points() -> None:
    groups = re.findall(r'entry-points\."(crossbreed\.\w+)"', (PACKAGE / "pyproject.toml").read_text())
    assert re.findall(r"^\| `(crossbreed\.\w+)`", PAGE.read_text(), re.MULTILINE) == groups


def test_the_package_s_own_tests_pass(installed: Path, address: str, tmp_path: Path) -> None:
    tests = tmp_path / "test_example_parts.py"  # alone: the repository's own settings and fixtures are no part of it
    tests.write_text((PACKAGE / "tests/test_example_parts.py").read_text())
    done = python(
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
        tests,
        path=installed,
        MERGE_SERVICE=address,
    )
    assert done.returncode == 0, done.stdout
    assert "no service" not in done.stdout


if __name__ == "__main__":
    PAGE.write_text(page_as_it_should_be())
