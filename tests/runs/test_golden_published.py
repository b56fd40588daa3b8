"""Published merges have the recorded bytes."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossbreed.kernels import fingerprint_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "published"
GENERATOR: dict[str, Any] = runpy.run_path(str(GOLDEN / "make_published.py"))
NAMES = ("merge", "publish")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    make: Callable[[Path], dict[str, Path]] = GENERATOR["make"]
    return make(tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize("name", NAMES)
def test_every_file_has_the_recorded_bytes(published: dict[str, Path], name: str) -> None:
    found = GENERATOR["contents"](published[name])
    recorded = {path.name: path.read_bytes() for path in (GOLDEN / name).iterdir()}
    assert found.keys() == recorded.keys()
    differing = [file for file in recorded if found[file] != recorded[file]]
    assert not differing, (
        "the bytes have changed. If this is intended, run `python tests/golden/published/make_published.py` and commit "
        "the files with the change"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_weights_have_the_recorded_fingerprint(name: str) -> None:
    fingerprint = fingerprint_checkpoint(GOLDEN / name)
    assert f'"fingerprint": "{fingerprint}"' in (GOLDEN / name / "crossbreed.json").read_text()


def test_the_recorded_weights_differ_from_the_base() -> None:
    base = GOLDEN.parent / "runs" / "sources" / "base"
    assert len({fingerprint_checkpoint(folder) for folder in (base, GOLDEN / "merge", GOLDEN / "publish")}) == 3
