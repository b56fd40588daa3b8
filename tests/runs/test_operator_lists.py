"""A run over a list of operators: each is tried first, `check` says so, and a resumed run is the same run."""

from pathlib import Path

import pytest
from toy_runs import records_of, write_spec

from crossbreed.runs import build_plan, load_spec, run
from crossbreed.runs.plan_text import plan_text

OPERATORS = ["task_arithmetic", "ties", "sce"]


@pytest.fixture(params=["cma_es", pytest.param("gp", marks=pytest.mark.slow)])
def spec(request: pytest.FixtureRequest, tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path]) -> Path:
    optimizer = {"kind": request.param, "budget": {"trials": 5}}
    changes = {"space__operator": OPERATORS, "optimizer": optimizer}
    return write_spec(tmp_path / "spec", base=toy_base, experts=toy_experts, **changes)


def test_every_operator_is_tried_first_and_a_resumed_run_is_the_same(spec: Path, tmp_path: Path) -> None:
    run(load_spec(spec), tmp_path / "whole")
    run(load_spec(spec, ["optimizer.budget.trials=2"]), tmp_path / "resumed")
    run(load_spec(spec), tmp_path / "resumed")
    whole, resumed = (
        [record for record in records_of(tmp_path / name) if record["kind"] == "ask" and record["point"] is not None]
        for name in ("whole", "resumed")
    )
    assert [ask["recipe"]["rules"][0]["operator"] for ask in whole[:3]] == OPERATORS
    assert [ask["point"] for ask in whole] == [ask["point"] for ask in resumed]
    assert len(whole) == 5


def test_check_says_how_they_are_explored(spec: Path) -> None:
    text = plan_text(build_plan(load_spec(spec)))
    assert "the first of which chooses the operator: task_arithmetic, ties, sce" in text
    assert "  choice  the first 3 trials are the best start under each operator" in text
