"""Whole runs with constraints, lengths and objectives that are relative to baselines."""

import json
from pathlib import Path

import pytest
from toy_runs import write_spec

from crossbreed.runs import load_spec, run
from crossbreed.runs.results.show import open_run, show_json, show_text
from crossbreed.types import violation_of

KEEP_BLUE = {"task": "blue", "at_least": "25% base"}
SHORT = {"length": "red", "at_most": 3}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    """A run that unlearns red, in which a quarter of what the base knows of blue is kept."""
    folder = tmp_path_factory.mktemp("constrained")
    path = write_spec(
        folder,
        base=toy_base,
        experts=toy_adapters,
        trials=12,
        fitness__objectives=[{"task": "red", "minimize": True}],
        fitness__constraints=[KEEP_BLUE, SHORT],
    )
    run(load_spec(path), folder / "run")
    return folder


def test_the_winner_keeps_the_constraints_and_the_report_says_so(finished: Path) -> None:
    found = open_run(finished / "run")
    trials = {trial.number: trial for trial in found.trials}
    base = trials[0].score.tasks["blue"].mean
    broken = {n for n, t in trials.items() if t.score.tasks["blue"].mean < base / 4 - 1e-9}
    assert broken == {n for n, t in trials.items() if violation_of(t.excesses)}
    assert broken
    assert len(broken) < len(trials)
    report = json.loads((finished / "run/report.json").read_text())
    assert report["winner"]["number"] not in broken
    told = report["winner"]["constraints"]
    assert [one["name"] for one in told] == ["blue at least 25% base", "length of red at most 3"]
    assert told[1]["answer"] == "holds"
    assert report["trials_keeping_constraints"] == len(trials) - len(broken)
    best = show_json(finished / "run")["best"]
    assert best == report["winner"]["number"] or best[0] not in broken
    text = show_text(finished / "run")
    assert f"{len(trials) - len(broken)} of {len(trials)} trials keep all constraints" in text
