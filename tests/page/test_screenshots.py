"""The pictures in docs are small, and the script makes them."""

from pathlib import Path

import make_screenshots
import pytest

NAMES = {f"{name}-{scheme}.png" for name in ("page", "report", "front") for scheme in ("light", "dark")}


def test_they_are_there_and_small() -> None:
    sizes = {path.name: path.stat().st_size for path in make_screenshots.HERE.iterdir()}
    assert sizes.keys() == NAMES
    assert max(sizes.values()) < 150_000


@pytest.mark.slow
def test_the_script_makes_them(has_browser: None, tmp_path: Path) -> None:
    make_screenshots.main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == NAMES
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
