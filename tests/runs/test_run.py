import gzip
import json
import re
import shlex
import shutil
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from in_process import exit_code_of
from toy_runs import SKILLS, journal_of, records_of, trials_of, write_spec

from crossbreed.errors import InputError, MachineError
from crossbreed.runs import build_plan, dump_spec, load_spec, publish_run, report_on, run
from crossbreed.runs.events import Event, TrialDone
from crossbreed.runs.record.identity import check_same_run
from crossbreed.runs.record.journal import Journal
from crossbreed.runs.results.report_text import caveats
from crossbreed.runs.results.show import show_json, show_text, show_trial
from crossbreed.runs.workers.start import start_worker


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    return write_spec(tmp_path_factory.mktemp("spec"), base=toy_base, experts=toy_adapters)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run(load_spec(spec), out)
    return out


def test_a_run_answers_baselines_then_its_budget_then_judges(finished: Path) -> None:
    shown = show_json(finished)
    assert shown["state"] == "finished"
    origins = [trial["origin"] for trial in shown["trials"]]
    assert origins[:4] == ["baseline:base", "baseline:expert:plain", "baseline:expert:stabilised", "baseline:uniform"]
    assert origins.count("cma_es") == 8
    report = json.loads((finished / "report.json").read_text())
    assert report["winner"]["n"] == 48
    assert (finished / "report.html").read_text().startswith("<!")
    assert f"{report['winner']['number']:06d}.yaml" in {path.name for path in (finished / "recipes").iterdir()}


def test_the_same_spec_gives_the_same_journal(finished: Path, spec: Path, tmp_path: Path) -> None:
    run(load_spec(spec), tmp_path / "again")
    assert journal_of(tmp_path / "again") == journal_of(finished)


def test_another_seed_gives_another_journal(finished: Path, spec: Path, tmp_path: Path) -> None:
    run(load_spec(spec, ["seed=8"]), tmp_path / "other")
    assert trials_of(tmp_path / "other") != trials_of(finished)


def test_a_finished_run_is_left_as_it_is(finished: Path, spec: Path) -> None:
    before = (finished / "journal.jsonl").read_bytes()
    run(load_spec(spec, ["fitness.engine.kind=fake", "workers.count=1"]), finished)
    report_on(finished)
    assert (finished / "journal.jsonl").read_bytes() == before


def test_a_larger_budget_goes_on_as_if_it_had_been_asked_at_once(spec: Path, tmp_path: Path) -> None:
    run(load_spec(spec, ["optimizer.budget.trials=3"]), tmp_path / "grown")
    run(load_spec(spec, ["optimizer.budget.trials=6"]), tmp_path / "grown")
    run(load_spec(spec, ["optimizer.budget.trials=6"]), tmp_path / "whole")

    def searched(path: Path) -> list[object]:
        return [r for r in trials_of(path) if r.get("split") in (None, "search")]

    assert searched(tmp_path / "grown") == searched(tmp_path / "whole")


def stopped(finished: Path, folder: Path, *, after: str, number: int) -> Path:
    """A run killed after its journal's line of that kind and number."""
    lines = (finished / "journal.jsonl").read_text().splitlines(keepends=True)
    ends = [n for n, line in enumerate(lines, start=1) if json.loads(line)["kind"] == after]
    (folder / "journal.jsonl").write_text("".join(lines[: ends[number]]))
    (folder / "spec.yaml").write_bytes((finished / "spec.yaml").read_bytes())
    return folder


def test_a_report_of_a_run_that_was_stopped_says_so_and_does_not_end_it(
    finished: Path, spec: Path, tmp_path: Path
) -> None:
    _, report = report_on(stopped(finished, tmp_path, after="tell", number=9))
    assert not report.is_over
    assert "interrupted after 10 trials" in caveats(report)[0]
    assert not json.loads((tmp_path / "report.json").read_text())["is_over"]
    assert show_json(tmp_path)["state"] == "interrupted"
    report = run(load_spec(spec), tmp_path)
    assert report.is_over
    assert show_json(tmp_path)["state"] == "finished"
    asked, expected = ([r for r in journal_of(path) if r["kind"] == "ask"] for path in (tmp_path, finished))
    assert asked == expected


def test_a_report_of_an_earlier_end_says_so_while_the_search_goes_on(
    finished: Path, spec: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    before = json.loads((folder / "report.json").read_text())

    def stop(event: Event) -> None:
        if isinstance(event, TrialDone):
            raise KeyboardInterrupt

    more = load_spec(spec, ["optimizer.budget.trials=14"])
    with pytest.raises(KeyboardInterrupt):
        run(more, folder, on_event=stop)
    told = json.loads((folder / "report.json").read_text())
    assert (before["is_over"], before["has_gone_on"]) == (True, False)
    assert (told["is_over"], told["has_gone_on"], told["winner"]) == (False, True, before["winner"])
    said = f"The search has gone on since: this report is of its first {sum(before['trials'].values())} trials"
    assert told["caveats"][0].startswith(said)
    assert said in (folder / "report.html").read_text()
    assert show_json(folder)["state"] == "interrupted"
    report = run(more, folder)
    told = json.loads((folder / "report.json").read_text())
    assert (told["is_over"], told["has_gone_on"]) == (report.is_over, report.has_gone_on) == (True, False)


def test_an_interrupted_run_shows_the_command_that_goes_on_and_no_time_left(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    stopped(finished, folder, after="tell", number=9)
    text = show_text(folder)
    assert "more, finalists and report" not in text
    assert show_json(folder)["seconds_left"] is None
    [advice] = [line for line in text.splitlines() if line.startswith("to go on: ")]
    assert exit_code_of(*shlex.split(advice)[4:]) == 0
    assert show_json(folder)["state"] == "finished"
    assert "to go on: " not in show_text(folder)


def test_near_ties_of_options_are_in_the_report(tmp_path: Path) -> None:
    task = {"kind": "choice", "prompt": "{q}", "choices": "o", "answer": "a"}
    tasks = [task | {"name": skill, "items": f"{skill}.jsonl"} for skill in SKILLS]
    experts = {"one": Path("fake/one"), "two": Path("fake/two")}
    engine = {"kind": "fake_recipes"}
    path = write_spec(
        tmp_path, base=Path("fake/base"), experts=experts, trials=2, fitness__tasks=tasks, fitness__engine=engine
    )
    for skill in SKILLS:
        items = [{"id": str(i), "q": f"{skill} {i}", "o": ["x", "yy"], "a": "x"} for i in range(60)]
        (tmp_path / f"{skill}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    report = run(load_spec(path), tmp_path / "run")
    assert report.near_ties.keys() == set(SKILLS)
    assert {n for _, n in report.near_ties.values()} == {24}
    told = json.loads((tmp_path / "run/report.json").read_text())["near_ties"]
    assert {task: (found["near"], found["n"]) for task, found in told.items()} == dict(report.near_ties)
    for kept in (tmp_path / "run/answers").glob("*margins*"):
        whole = json.loads(gzip.decompress(kept.read_bytes()))
        others = {**whole, "red": {f"{item}x": margin for item, margin in whole["red"].items()}, "green": {"0": 0.0}}
        kept.write_bytes(gzip.compress(json.dumps(others).encode()))
    _, mended = report_on(tmp_path / "run")
    assert mended.near_ties == {"blue": report.near_ties["blue"]}, "those of other items count nowhere"
    for kept in (tmp_path / "run/answers").glob("*margins*"):  # an older version kept none
        kept.unlink()
    _, older = report_on(tmp_path / "run")
    assert older.near_ties == {}
    assert older.winner == report.winner


def test_an_interrupted_run_of_a_program_names_no_command(finished: Path, tmp_path: Path) -> None:
    stopped(finished, tmp_path, after="tell", number=9)
    raw = yaml.safe_load((tmp_path / "spec.yaml").read_text())
    raw["optimizer"] = {"kind": "object", "object": "my.Optimizer", "budget": raw["optimizer"]["budget"]}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw))
    assert "to go on: call crossbreed.run with the same objects" in show_text(tmp_path)


def test_a_report_does_not_end_a_search_whose_last_candidate_is_out(finished: Path, tmp_path: Path) -> None:
    assert not report_on(stopped(finished, tmp_path, after="ask", number=-1))[1].is_over
    assert "end" not in {record["kind"] for record in journal_of(tmp_path)}


def test_a_spec_that_is_refused_leaves_no_folder(spec: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(load_spec(spec, ["fitness.split.report=1000"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError):
        run(load_spec(spec, ["fitness.split.report=1000"]), tmp_path / "mine")
    assert (tmp_path / "mine").exists()


def test_another_spec_on_the_folder_is_refused(finished: Path, spec: Path) -> None:
    before = (finished / "journal.jsonl").read_bytes()
    with pytest.raises(InputError, match="started with another spec") as caught:
        run(load_spec(spec, ["space.groups.layers=4"]), finished)
    assert "space.groups.layers: 2 -> 4" in str(caught.value)
    assert (finished / "journal.jsonl").read_bytes() == before


def test_items_that_have_changed_are_named_by_their_task(spec: Path) -> None:
    begun = build_plan(load_spec(spec)).run_record()
    changed = replace(begun, contents={**begun.contents, "red": "0" * 12})
    with pytest.raises(InputError, match="started with other items") as caught:
        check_same_run(begun, changed, where="run")
    assert caught.value.got == "those of red have changed"


def test_scores_are_of_the_items_that_the_journal_names(finished: Path) -> None:
    head, *records = records_of(finished)
    splits = [set(head["items"][split]["red"]) for split in ("search", "select", "report")]
    assert [len(split) for split in splits] == [20, 16, 24]
    assert not splits[0] & splits[1] | splits[0] & splits[2] | splits[1] & splits[2]
    for record in records:
        if record["kind"] == "tell":
            assert len(record["tasks"]["red"]) == len(head["items"][record["split"]]["red"])


def test_report_items_are_answered_once_a_recipe_and_after_the_search(finished: Path) -> None:
    records = records_of(finished)
    order = [record.get("split", "") for record in records if record["kind"] == "tell"]
    assert order == sorted(order, key=["search", "select", "report"].index)
    reported = [record["number"] for record in records if record.get("split") == "report"]
    assert len(reported) == len(set(reported))


def test_a_winner_whose_weights_cannot_be_made_again_is_left_out(finished: Path, spec: Path, tmp_path: Path) -> None:
    """As where another version of torch makes other bits of the recipe that won: by name, and the next best wins."""
    records = records_of(finished)
    winner = json.loads((finished / "report.json").read_text())["winner"]["number"]
    kept = [record for record in records if record["kind"] != "end" and record.get("split") != "report"]
    for record in kept:
        if record["kind"] == "tell" and record["number"] == winner:
            record["fingerprint"] = "0" * 32
    before = "".join(json.dumps(record) + "\n" for record in kept)
    (tmp_path / "journal.jsonl").write_text(before)
    said: list[str] = []
    report = run(load_spec(spec), tmp_path, on_event=lambda event: said.append(str(event)))
    assert report.winner.number != winner
    [note] = [line for line in said if "left out" in line]
    assert re.match(rf"trial {winner} is left out of the result: .*versions of .* torch.* threads", note)
    added = records_of(tmp_path)[len(kept) :]
    assert all(record["number"] != winner for record in added if record["kind"] == "tell")
    assert added[-1]["kind"] == "end"
    with pytest.raises(MachineError, match=f"the weights of trial {winner} had fingerprint 0000"):
        report_on(tmp_path, trial=winner)
    report_on(tmp_path)


@pytest.mark.parametrize("asked", [0, 1])
def test_a_run_without_a_measured_trial_has_nothing_to_report(finished: Path, tmp_path: Path, asked: int) -> None:
    lines = (finished / "journal.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_text("".join(lines[: 1 + asked]))
    shutil.copy(finished / "spec.yaml", tmp_path)
    with pytest.raises(InputError, match="no trial of this run has been measured yet"):
        report_on(tmp_path)


def test_a_failing_answer_is_retried_and_costs_nothing_else(finished: Path, spec: Path, tmp_path: Path) -> None:
    flaky = ["fitness.engine.fail=answer", "fitness.engine.fail_at=20"]
    run(load_spec(spec, flaky), tmp_path / "flaky")
    assert trials_of(tmp_path / "flaky") == trials_of(finished)
    attempts = [r["clock"]["attempts"] for r in records_of(tmp_path / "flaky") if r["kind"] == "tell"]
    assert set(attempts) == {1, 2}


def test_a_worker_refuses_items_that_have_changed_since_the_start(spec: Path) -> None:
    planned = build_plan(load_spec(spec)).run_record()
    with pytest.raises(InputError, match="started with another spec"):
        start_worker(load_spec(spec, ["fitness.split.search=19"]), planned)


def test_failed_trials_are_no_scores(spec: Path, tmp_path: Path) -> None:
    changes = ["fitness.engine.fail=answer", "fitness.engine.fail_at=22", "workers.retries=0"]
    run(load_spec(spec, changes), tmp_path / "run")
    shown = show_json(tmp_path / "run")
    failed = [trial for trial in shown["trials"] if trial["status"] == "FAILED"]
    assert {trial["number"] for trial in failed}.isdisjoint([*shown["best"], *shown["archive"]])
    assert all(trial["objectives"] is None and trial["tasks"] == {} for trial in failed)
    assert f"{len(failed)} FAILED (not measured)" in show_text(tmp_path / "run")


def test_an_engine_that_does_not_start_is_the_machines_fault(spec: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="does not start"):
        run(load_spec(spec, ["fitness.engine.fail=start"]), tmp_path / "run")


def test_several_objectives_keep_a_front(spec: Path, tmp_path: Path) -> None:
    changes = [
        "optimizer={kind: nsga2, budget: {trials: 12}}",
        "fitness.objectives=[{task: red}, {task: blue}]",
    ]
    run(load_spec(spec, changes), tmp_path / "run")
    shown = show_json(tmp_path / "run")
    values = {trial["number"]: trial["objectives"] for trial in shown["trials"]}
    for number in shown["archive"]:
        assert not any(
            all(o >= m for o, m in zip(other, values[number], strict=True)) and other != values[number]
            for other in values.values()
        )


def test_a_trial_is_shown_with_what_the_model_said(finished: Path) -> None:
    text = show_trial(finished, 0, answers=True)
    assert "red-" in text
    with pytest.raises(InputError, match="no trial 99"):
        show_trial(finished, 99, answers=False)


def test_a_published_folder_is_not_taken_for_another(finished: Path, tmp_path: Path) -> None:
    """The same weights with another licence, another trial's, or a dry run into either."""
    out, said = tmp_path / "model", list[Event]()
    kept = (finished / "report.json").read_bytes()
    (finished / "report.json").write_text("[")  # is derived: nobody needs it
    publish_run(finished, out, trial=3, with_scores=False, licence="mit")
    (finished / "report.json").write_bytes(kept)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    publish_run(
        finished, out, trial=3, with_scores=False, licence="mit", push_to="a/b", dry_run=True, on_event=said.append
    )
    assert "would upload to a/b" in str(said[-1])
    for push_to in (None, "a/b"):
        asked: dict[str, Any] = {"with_scores": False, "push_to": push_to, "dry_run": push_to is not None}
        with pytest.raises(InputError, match="published otherwise") as caught:
            publish_run(finished, out, trial=3, licence="apache-2.0", **asked)
        assert (caught.value.expected, caught.value.got) == ("licence: apache-2.0", "licence: mit")
        with pytest.raises(InputError, match="the output folder is in use"):
            publish_run(finished, out, trial=1, licence="mit", **asked)
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    record = json.loads((out / "crossbreed.json").read_text())
    for other in ({"run": {**record["run"], "name": "another"}}, {"host": {**record["host"], "chat template": "0"}}):
        (out / "crossbreed.json").write_text(json.dumps({**record, **other}))
        with pytest.raises(InputError, match="published otherwise"):
            publish_run(finished, out, trial=3, with_scores=False, licence="mit")


def test_a_trial_is_published_and_journalled_or_neither(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = Path(shutil.copytree(finished, tmp_path / "run")), tmp_path / "model"
    publish = partial(publish_run, folder, out, trial=3, with_scores=False, licence="mit")

    def noted() -> list[str]:
        return [record["clock"]["folder"] for record in records_of(folder) if record["kind"] == "publish"]

    before = noted()
    with closing(Journal(folder / "journal.jsonl")):  # as a driver that searches
        with pytest.raises(InputError, match="another driver is using this run folder"):
            publish()
        assert not out.exists()
        publish(push_to="a/b", dry_run=True)
    assert noted() == before

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", lambda self, record: (_ for _ in ()).throw(OSError("a kill")))
        with pytest.raises(OSError, match="a kill"):
            publish()
    assert (out / "crossbreed.json").exists()
    assert noted() == before
    publish()
    assert noted() == [*before, str(out)]
    with closing(Journal(folder / "journal.jsonl")):
        publish()  # nothing is to be written
    assert noted() == [*before, str(out)]
    assert json.loads((folder / "report.json").read_text())["published"][-1] == {"number": 3, "folder": str(out)}


def test_a_run_reads_its_own_spec(spec: Path, tmp_path: Path) -> None:
    """A spec of Python may hold under `few_shot` what is refused in a file, where texts are meant."""
    raw = yaml.safe_load(dump_spec(load_spec(spec, ["optimizer.budget.trials=1"])))
    raw["fitness"]["tasks"][0]["few_shot"] = [{"q": 1e-05, "a": "5", "hard": True}]
    run(raw, tmp_path / "run")
    report_on(tmp_path / "run")
    own = tmp_path / "run" / "spec.yaml"
    (tmp_path / "spec.yaml").write_text(own.read_text().replace("hard: true", "hard: yes"))
    with pytest.raises(InputError, match="as a text"):
        load_spec(tmp_path / "spec.yaml")


def test_sources_that_change_stop_the_search_at_once(
    spec: Path, toy_base: Path, toy_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Not when the finalists are to be made again; and with the file put back the same command goes on."""
    shutil.copytree(toy_adapters["plain"], tmp_path / "plain")
    changed = load_spec(spec, [f"sources.experts.plain={tmp_path / 'plain'}"])
    weights, kept = tmp_path / "plain" / "adapter_model.safetensors", tmp_path / "kept"
    shutil.copy2(weights, kept)

    def replace(event: object) -> None:
        if isinstance(event, TrialDone) and event.trial.number == 10:
            weights.write_bytes(weights.read_bytes())

    with pytest.raises(InputError, match="a file of the sources was changed") as caught:
        run(changed, tmp_path / "run", on_event=replace)
    assert caught.value.where == str(weights)
    assert [r["number"] for r in records_of(tmp_path / "run") if r["kind"] == "tell"][-1] == 10
    shutil.copy2(kept, weights)
    run(changed, tmp_path / "run")
