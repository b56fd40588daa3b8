"""A run over a list of operators: each is tried first, `check` says so, and a resumed run is the same run."""

from pathlib import Path
from typing import Any

import pytest
from toy_runs import journal_of, records_of, trials_of, write_spec

from crossbreed.runs import build_plan, load_spec, run
from crossbreed.runs.record.journal import read

OPERATORS = ["task_arithmetic", "ties", "sce"]


@pytest.fixture(params=["cma_es", "gp", "nsga2", "random"])
def spec(request: pytest.FixtureRequest, tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path]) -> Path:
    optimizer: dict[str, Any] = {"kind": request.param, "budget": {"trials": 7}}
    changes = {"space__operator": OPERATORS, "optimizer": optimizer}
    return write_spec(tmp_path / "spec", base=toy_base, experts=toy_experts, **changes)


def test_every_operator_is_tried_first_and_a_resumed_run_is_the_same(spec: Path, tmp_path: Path) -> None:
    run(load_spec(spec), tmp_path / "whole")
    asks = [record for record in records_of(tmp_path / "whole") if record["kind"] == "ask" and "proposal" in record]
    asked = [record for record in asks if record["proposal"] is not None][:3]
    assert [record["recipe"]["rules"][0]["operator"] for record in asked] == OPERATORS
    for stop in (2, 4):
        run(load_spec(spec, [f"optimizer.budget.trials={stop}"]), tmp_path / str(stop))
        run(load_spec(spec), tmp_path / str(stop))
        search = [
            [r for r in trials_of(tmp_path / name) if r.get("split") != "report"] for name in ("whole", str(stop))
        ]
        assert [r for r in search[0] if r["kind"] == "ask"] == [r for r in search[1] if r["kind"] == "ask"]
    assert len(list(read(tmp_path / "whole" / "journal.jsonl"))) <= len(journal_of(tmp_path / "4"))


def test_check_says_how_they_are_explored(spec: Path) -> None:
    text = build_plan(load_spec(spec)).describe()
    assert "the first of which chooses the operator: task_arithmetic, ties, sce" in text
    assert "  choice  the first 3 trials are the best start under each operator" in text
