"""A space that crossbreed does not know, from an entry point: its laws, and a whole run with no change elsewhere."""

import json
import os
from pathlib import Path

import pytest
from global_scalar import GlobalScalarConfig, GlobalScalarSpace
from plugged import call_each, write_package
from toy_runs import call, journal_of, write_spec

from crossbreed.search_spaces import SearchSpace, SpaceInputs
from crossbreed.testing.spaces import SpaceConformance, make_structure


class TestGlobalScalar(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return GlobalScalarSpace(GlobalScalarConfig(), SpaceInputs(structure=make_structure(), dtype="bfloat16"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process in which the package is installed."""
    entry_points = {"crossbreed.spaces": {"global_scalar": "global_scalar:PART"}}
    folder = write_package(tmp_path / "installed", "their-space", files={}, entry_points=entry_points)
    return {"PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(folder), str(Path(__file__).parent)])}


def test_a_run_searches_it_resumes_and_reports(
    tmp_path: Path, environment: dict[str, str], toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    spec = write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters, space={"kind": "global_scalar"})
    run = tmp_path / "run"
    runs = [("run", spec, "--out", run, "--set", f"optimizer.budget.trials={trials}") for trials in (3, 8)]
    done = call_each(*runs, ("show", run, "--json"), ("report", run), **environment)
    assert [code for code, _, _ in done] == [0] * 4, done
    assert "2 experts, 1 coordinate, cma_es" in done[1][1]
    assert journal_of(run)[0]["coordinates"] == ["scalar"]
    shown = json.loads(done[2][1])
    assert shown["state"] == "finished"
    bred = [trial["recipe"]["rules"][0]["params"]["weight"] for trial in shown["trials"] if trial["origin"] == "cma_es"]
    assert len(bred) == 8
    assert all(len(set(weights.values())) == 1 for weights in bred)
    assert len({next(iter(weights.values())) for weights in bred}) > 4


def test_an_optimizer_that_wants_more_of_it_is_refused_with_its_own_reason(
    tmp_path: Path, environment: dict[str, str], toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    spec = write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters, space={"kind": "global_scalar"})
    reasons = {
        "frank_wolfe": "one factor is searched for all experts",
        "m2n2": "does not search this kind of space",
    }
    overrides = [f"optimizer={{kind: {optimizer}, budget: {{trials: 3}}}}" for optimizer in reasons]
    checks = [("check", spec, "--set", override) for override in overrides]
    for reason, (code, _, err) in zip(reasons.values(), call_each(*checks, **environment), strict=True):
        assert code == 2
        assert reason in err


def test_without_the_package_its_kind_is_unknown(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    spec = write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters, space={"kind": "global_scalar"})
    refused = call("check", spec)
    assert refused.returncode == 2
    assert "unknown space `global_scalar`" in refused.stderr
