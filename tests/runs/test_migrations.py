"""Runs of older versions stay open when a version adds, renames or drops what they do not use."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_golden_runs import GOLDEN, copied

from crossbreed.errors import InputError
from crossbreed.runs import load_spec, report_on, run


def changed(out: Path, change: Callable[[Any], object]) -> Path:
    """A finished run of schema 1, which has no checksums, whose first record was changed."""
    copied(GOLDEN / "v0.1.0/random/finished", out)
    head, *rest = (out / "journal.jsonl").read_text().splitlines()
    begun = json.loads(head)
    change(begun["spec"])
    (out / "journal.jsonl").write_text("\n".join([json.dumps(begun), *rest, ""]))
    return out


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec["fitness"]["slopes"].pop("tokens"),
        lambda spec: spec["fitness"].pop("slopes"),
        lambda spec: spec["fitness"]["slopes"].update(tokens=7),  # which this run does not use
        lambda spec: spec.pop("artifacts"),
        lambda spec: spec["fitness"]["tasks"][1].pop("system"),
        lambda spec: spec["fitness"]["engine"].pop("fail_at"),
        lambda spec: spec.pop("dtype"),
    ],
)
def test_a_setting_that_was_not_there_yet_has_its_default(change: Callable[[Any], object], tmp_path: Path) -> None:
    out = changed(tmp_path / "run", change)
    before = (out / "journal.jsonl").read_bytes()
    report_on(out)
    run(load_spec(out / "spec.yaml"), out)
    assert (out / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec.update(seed=8), "seed: 8 -> 7"),
        (lambda spec: spec["fitness"]["tasks"][1].update(max_tokens=5), "max_tokens: 5 -> 4"),
        (lambda spec: spec["fitness"]["tasks"][1].update(stop=[]), "stop: [] -> None"),
        (lambda spec: spec["space"].update(mood="good"), "space.mood: good -> nothing"),
    ],
)
def test_another_value_is_another_run(change: Callable[[Any], object], said: str, tmp_path: Path) -> None:
    out = changed(tmp_path / "run", change)
    with pytest.raises(InputError, match="started with another spec") as caught:
        run(load_spec(out / "spec.yaml"), out)
    assert said in str(caught.value)


def test_a_setting_that_is_not_at_its_default_is_missed(tmp_path: Path) -> None:
    out = changed(tmp_path / "run", lambda spec: spec["fitness"]["engine"].pop("delay_s"))
    with pytest.raises(InputError, match=r"fitness.engine.delay_s: 0.0 -> 0.25"):
        run(load_spec(out / "spec.yaml", ["fitness.engine.delay_s=0.25"]), out)
