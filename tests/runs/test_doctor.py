"""`crossbreed doctor`: what is missing and what for, and which plug-ins are there or broken."""

import json
from dataclasses import replace

import pytest

from crossbreed.errors import InputError
from crossbreed.fitness import ENGINES, METRICS, EngineConfig, EnginePart, Metric
from crossbreed.recipes.operators import OPERATORS
from crossbreed.registry import Registry
from crossbreed.runs import doctor
from crossbreed.runs.doctor import examine, render


def test_this_machine_has_what_the_parts_need() -> None:
    findings = examine()
    assert json.loads(json.dumps(findings)) == findings
    assert findings["packages"]["torch"]
    assert findings["purposes"]["vllm"] == "the engine vllm"
    assert findings["purposes"]["scipy"] == "the optimizer gp"
    assert findings["plugins"] == []


def test_what_is_missing_is_named_with_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "is_installed", lambda module: module != "scipy")
    assert any(p.startswith("scipy is missing (the optimizer gp): pip install") for p in examine()["problems"])


def test_what_serve_needs_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "is_installed", lambda module: module not in ("fastapi", "uvicorn"))
    findings = examine()
    assert findings["packages"]["fastapi"] is None
    assert "crossbreed[serve]" in findings["purposes"]["fastapi"]
    assert not any("fastapi" in problem for problem in findings["problems"]), "a client needs none of it"
    assert "fastapi        missing          `crossbreed serve`: pip install 'crossbreed[serve]'" in render(findings)


def test_what_plug_ins_need_is_listed_too() -> None:
    part = EnginePart(config=EngineConfig, takes="weights", make="theirs:Engine", needs=("their_client",))
    with ENGINES.holding("theirs", part):
        findings = examine()
    assert findings["purposes"]["their_client"] == "the engine theirs"
    assert "their_client is missing (the engine theirs): install what brings it" in findings["problems"]


def test_plug_ins_are_listed_and_broken_ones_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = InputError("the metric `broken` cannot be imported: ImportError: no such library")
    monkeypatch.setattr(METRICS, "faults", lambda: {"broken": fault})
    monkeypatch.setattr(Registry, "package_of", lambda self, name: "theirs 1.0" if name == "broken" else "crossbreed")
    with METRICS.holding("broken", Metric(function=lambda text, gold: 0.0)):
        shown = render(examine())
    assert "theirs 1.0                      the metric broken" in shown
    assert "problem: the metric `broken` cannot be imported: ImportError: no such library" in shown


def test_a_function_of_a_plug_in_s_operator_that_cannot_be_imported_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = OPERATORS["linear"]
    monkeypatch.setattr(Registry, "package_of", lambda self, name: "theirs 1.0" if name == "mine" else "crossbreed")
    with OPERATORS.holding("mine", replace(part, spec=replace(part.spec, name="mine"))):
        assert [plugin["problem"] for plugin in examine()["plugins"]] == [None]
    for role in ("arithmetic", "reference"):
        with OPERATORS.holding("mine", replace(part, **{role: "no_such_module:merge"})):
            [problem] = [plugin["problem"] for plugin in examine()["plugins"]]
        assert "the operator `mine` cannot be imported: ModuleNotFoundError" in problem
        assert "got:      no_such_module:merge" in problem
