"""Tasks of which a provider tells nothing but means: one value for each of its splits, and no items are made up."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from api_specs import raw_spec, spec_over, written
from fake_service import FakeService
from faults_transport import SimulatedClock
from test_api_runs import Ended, journal_of

from crossbreed.errors import InputError, MachineError
from crossbreed.fitness.engines.api.engine import ApiEngine
from crossbreed.runs import build_plan, check_spec, run
from crossbreed.runs.checking.text import findings_text
from crossbreed.runs.exports.export import export_run
from crossbreed.runs.record.journal import read
from crossbreed.runs.record.records import RunRecord, TellRecord, from_json, to_json
from crossbreed.runs.results.compare import compare, comparison_text
from crossbreed.runs.results.report_text import how_measured, sentences
from crossbreed.runs.results.show import show_json, show_text, show_trial
from crossbreed.runs.results.verdict import verdict_of
from crossbreed.runs.spec.objectives import ObjectiveConfig

SPLITS = {"search": 24, "select": 12, "report": 20}


def served(**settings: Any) -> FakeService:
    return FakeService(only_aggregates=True, splits=SPLITS, **settings)


def spec(folder: Path, service: FakeService, *, mixed: bool = False, **optimizer: Any) -> Any:
    raw = raw_spec(folder, trials=3)
    own = [raw["fitness"]["tasks"][0]] if mixed else []
    raw["fitness"]["tasks"] = [*own, {"kind": "remote", "name": "secret"}, {"kind": "remote", "name": "hidden"}]
    raw |= optimizer
    return spec_over(written(folder, raw), service)


def test_a_run_over_means_says_what_its_intervals_are(tmp_path: Path) -> None:
    service, out = served(rights=("scores",)), tmp_path / "run"
    report = run(spec(tmp_path, service), out)
    asked = [body for where, body in service.asked if where == "/v1/evaluations"]
    assert all(body.keys() == {"model", "task", "split"} for body in asked)
    assert {body["split"] for body in asked} == set(SPLITS)
    assert report.winner.value.n == 2 * SPLITS["report"]
    assert report.winner.tasks["secret"].n == SPLITS["report"]
    best = report.to_best_baseline
    assert best is not None
    assert best.by.is_known
    assert report.means == {"secret": True, "hidden": True}
    assert "paired bootstrap" not in how_measured(report)
    assert "means and their standard errors, and no items: 95% intervals are by these errors" in how_measured(report)
    begun, *told = read(out / "journal.jsonl")
    assert isinstance(begun, RunRecord)
    assert begun.counts == {"secret": SPLITS, "hidden": SPLITS}
    tells = [record for record in told if isinstance(record, TellRecord)]
    assert all(record.means["secret"].counts == (SPLITS[record.split],) for record in tells)
    assert all(from_json(json.dumps(to_json(record))) == record for record in tells)
    assert {record.items for record in tells if record.split == "search"} == {2 * SPLITS["search"]}


def test_reading_a_run_of_means(tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = run(spec(tmp_path, served()), out)
    assert run(spec(tmp_path, served()), out) == report, "it is read from the journal as it was told"
    number = report.winner.number
    assert "items" not in show_trial(out, number, answers=True).partition("recipe")[2], "there are no answers to show"
    assert show_json(out)["state"] == "finished"
    assert "hidden" in show_text(out)
    notes = list[str]()
    export_run(out, csv=tmp_path / "items.csv", items=True, on_note=notes.append)
    assert notes == ["there are no rows for hidden, secret: its provider tells only means"]
    assert len((tmp_path / "items.csv").read_text().splitlines()) == 1, "no item is made up"
    [found] = compare([str(out), f"{out}:base"])
    assert all(line.by.is_known and line.by.n == SPLITS["report"] for line in found.tasks)
    assert "no items: 95% intervals are by these errors, not paired" in comparison_text([found])
    assert "paired bootstrap" not in comparison_text([found])
    page = (out / "report.html").read_text()
    assert "not paired" in page


def test_without_standard_errors_nothing_is_told_apart(tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = run(spec(tmp_path, served(tells_errors=False)), out)
    told = json.loads((out / "report.json").read_text())
    assert (told["winner"]["low"], told["winner"]["high"]) == (None, None)
    best = report.to_best_baseline
    assert best is not None
    assert (best.by.low, best.by.high) == (-math.inf, math.inf)
    verdict = verdict_of(report)
    assert verdict.kind != "take"
    if verdict.kind == "unclear":
        assert "means without standard errors" in verdict.why
    assert any("[not known] (no interval is known: not shown to be better)" in line for line in sentences(report))
    assert "tells means alone: what they are part of has no interval" in how_measured(report)
    assert "[not known]" in show_text(out)


def test_means_and_items_together(tmp_path: Path) -> None:
    report = run(spec(tmp_path, served(), mixed=True), tmp_path / "run")
    assert report.winner.value.n == 2 * SPLITS["report"] + 8
    assert "paired bootstrap intervals" in how_measured(report)
    assert "of secret, hidden the provider tells means" in how_measured(report)
    assert report.winner.tasks["red"].is_known


def test_a_search_over_means_repeats_and_resumes(tmp_path: Path) -> None:
    class Killed(FakeService):
        def _evaluate(self, body: Any) -> Any:
            if self.count("/v1/evaluations") > 9:
                raise Ended
            return super()._evaluate(body)

    run(spec(tmp_path / "a", served()), tmp_path / "whole")
    killed = Killed(only_aggregates=True, splits=SPLITS)
    with pytest.raises(Ended):
        run(spec(tmp_path / "b", killed), tmp_path / "resumed")
    run(spec(tmp_path / "b", served()), tmp_path / "resumed")
    assert journal_of(tmp_path / "resumed") == journal_of(tmp_path / "whole")


def test_what_needs_items_is_refused_by_name(tmp_path: Path) -> None:
    lineage = {"space": {"kind": "lineage"}, "optimizer": {"kind": "m2n2", "budget": {"trials": 4}}}
    with pytest.raises(InputError, match="optimizer `m2n2` needs the value of each item") as refused:
        run(spec(tmp_path, served(), **lineage), tmp_path / "run")
    assert "`secret`, `hidden`" in refused.value.got
    mixed = spec(tmp_path, served(), mixed=True, **lineage)
    fitness = mixed.fitness.model_copy(update={"objectives": (ObjectiveConfig(task="red"),)})
    build_plan(mixed.model_copy(update={"fitness": fitness}))  # the items that it reads are another task's


@pytest.mark.parametrize(
    ("service", "said"),
    [
        (FakeService(only_aggregates=True), "serve.split"),
        (FakeService(only_aggregates=True, splits={"search": 9, "select": 9}), "splits"),
    ],
)
def test_a_mean_of_everything_cannot_be_searched_with(service: FakeService, said: str, tmp_path: Path) -> None:
    unhurried = spec(tmp_path, service)
    unhurried.fitness.engine.over(service, SimulatedClock())
    with pytest.raises((InputError, MachineError), match=said.replace(".", r"\.")):
        run(unhurried, tmp_path / "run")


def test_other_splits_are_another_run(tmp_path: Path) -> None:
    run(spec(tmp_path, served()), tmp_path / "run")
    other = FakeService(only_aggregates=True, splits={**SPLITS, "report": 21})
    with pytest.raises(InputError, match="started with other items"):
        run(spec(tmp_path, other), tmp_path / "run")


def test_a_mean_of_other_items_is_asked_again(tmp_path: Path) -> None:
    service = served()
    engine = ApiEngine(spec(tmp_path, service).fitness.engine)
    from test_api_engine import recipe

    handle = engine.adopt(recipe(0.4))
    right = handle.score_split("secret", "report", count=20)
    assert right.standard_error is not None
    service.splits = {**SPLITS, "report": 19}
    engine.transport.settings = engine.transport.settings.model_copy(update={"patience": 0.0})
    with pytest.raises(MachineError, match="the mean of 19 items, not of 20"):
        handle.score_split("secret", "report", count=20)


def test_check_tells_the_provider_s_splits(tmp_path: Path) -> None:
    found = check_spec(spec(tmp_path, served()), answer=True)
    assert [task.num_items for task in found.tasks] == [56, 56]
    assert found.tasks[0].num_split == SPLITS
    assert found.cost.items["search"] == 48
    assert "(24 search, 12 select, 20 report)" in findings_text(found)
