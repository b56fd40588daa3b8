"""`crossbreed compare`: paired on the report items that both runs answered, from their journals alone."""

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_runs import SKILLS, write_spec
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.errors import InputError
from crossbreed.runs import load_spec, report_on, run
from crossbreed.runs.events import Event, TrialDone
from crossbreed.runs.exports.export import export_run
from crossbreed.runs.plan import build_plan
from crossbreed.runs.publishing.publish_run import _recorded
from crossbreed.runs.results.compare import _number, _other_machinery, compare, comparison_json, comparison_text
from crossbreed.runs.results.show import open_run, show_text
from crossbreed.runs.results.statistics import paired_difference
from crossbreed.runs.results.watch import Watched
from crossbreed.runs.results.winner import finalists, recorded_winner
from crossbreed.types import ItemScores

EXPERTS = {"one": Path("fake/one"), "two": Path("fake/two")}
ENGINE = {"kind": "fake_recipes"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    return write_spec(folder, base=Path("fake/base"), experts=EXPERTS, fitness__engine=ENGINE)


@pytest.fixture(scope="module")
def runs(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two searches of the same items: one of eight trials and one of twenty."""
    root = tmp_path_factory.mktemp("two runs")
    run(load_spec(spec), root / "short")
    run(load_spec(spec, ["optimizer.budget.trials=20", "optimizer.options.popsize=10"]), root / "long")
    return root / "short", root / "long"


def report_scores(path: Path, number: int) -> Mapping[str, ItemScores]:
    return open_run(path).history.scores["report", number].tasks


def test_winner_against_winner_is_the_paired_difference_of_the_report(runs: tuple[Path, Path]) -> None:
    (found,) = compare([*map(str, runs)])
    a, b = (report_scores(path, model.trial) for path, model in zip(runs, (found.first, found.second), strict=True))
    objective = open_run(runs[0]).objectives[0]
    (mean,) = found.objectives
    assert mean.by == paired_difference(a, b, objective, seed=7)
    assert mean.by.n == 48
    assert [line.name for line in found.tasks] == list(SKILLS)
    for line in found.tasks:
        assert np.isclose(line.by.mean, a[line.name].mean - b[line.name].mean)
        assert (line.first, line.second) == (a[line.name].mean, b[line.name].mean)
    assert found.notes == ()


def test_another_engine_or_dtype_is_said(spec: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = {"kind": "python", "engine": "scorer:engine"}
    run(load_spec(spec, ["dtype=float32"]), tmp_path / "other")
    (found,) = compare([str(runs[0]), str(tmp_path / "other")])
    assert found.notes == (
        "answered otherwise: dtype 'auto' in the first run and 'float32' in the second; a part of the difference may "
        "be theirs",
    )
    begun = found.first.begun
    fitness = {**begun.spec["fitness"], "engine": other}
    assert len([*_other_machinery(begun, replace(begun, spec={**begun.spec, "fitness": fitness}))]) == 1


def test_winner_and_baseline_differ_as_the_report_says(runs: tuple[Path, Path]) -> None:
    for path in runs:
        assert _winner(path) == json.loads((path / "report.json").read_text())["winner"]["number"]
    report = json.loads((runs[0] / "report.json").read_text())["difference_to_best_baseline"]
    (found,) = compare([str(runs[0]), f"{runs[0]}:{report['name']}"])
    assert found.objectives[0].by.to_json() == {key: report[key] for key in ("mean", "low", "high", "n")}


def test_an_interrupted_run_has_the_winner_of_its_report_until_it_goes_on(spec: Path, tmp_path: Path) -> None:
    out, loaded = tmp_path / "run", load_spec(spec)

    def stop(event: Event) -> None:
        if isinstance(event, TrialDone) and event.num_done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(loaded, out, on_event=stop)
    assert _winner(out) is None
    with pytest.raises(InputError, match="no winner yet"):
        compare([str(out), f"{out}:base"])
    _, report = report_on(out)
    assert not open_run(out).history.is_finished
    assert _winner(out) == report.winner.number == compare([str(out), f"{out}:base"])[0].first.trial
    assert _recorded(build_plan(loaded, searches=False), out, None, is_dry=False) == report.winner.number
    history = open_run(out).history
    del history.scores["select", finalists(history.ok_trials, open_run(out).objectives)[-1].number]
    assert recorded_winner(history, open_run(out).objectives) is None


def test_a_report_on_a_trial_makes_it_no_winner_of_finalists_that_are_still_to_be_measured(
    spec: Path, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    """The run was killed after the first of them, and its budget is spent."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "spec.yaml").write_bytes((runs[0] / "spec.yaml").read_bytes())
    lines = (runs[0] / "journal.jsonl").read_bytes().splitlines(keepends=True)
    kept = 1 + next(i for i, line in enumerate(lines) if json.loads(line).get("split") == "select")
    (out / "journal.jsonl").write_bytes(b"".join(lines[:kept]))
    number = json.loads(lines[kept - 1])["number"]
    report_on(out, trial=number)
    assert not open_run(out).history.is_finished
    assert _winner(out) is None
    with pytest.raises(InputError, match="no winner yet"):
        compare([str(out), f"{out}:base"])
    assert run(load_spec(spec), out).winner.number == _winner(runs[0])
    assert open_run(out).history.is_finished


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("minimize: null", "minimize: true"),
        ("mean:\n    - red\n", "mean:\n"),
        ("- red\n    - blue", "- blue\n    - red"),
    ],
)
def test_a_spec_that_was_edited_in_the_run_folder_renames_no_value(
    runs: tuple[Path, Path], tmp_path: Path, before: str, after: str
) -> None:
    out = shutil.copytree(runs[0], tmp_path / "run")
    written = (out / "spec.yaml").read_text()
    assert before in written
    (out / "spec.yaml").write_text(written.replace(before, after))
    watched = Watched(out)
    for look in (lambda: show_text(out), watched.look, lambda: export_run(out, csv=tmp_path / "trials.csv")):
        with pytest.raises(InputError, match="not the one that its run was started with"):
            look()
    with pytest.raises(InputError, match="not the one that its run was started with"):
        compare([str(out), str(runs[1])])
    (out / "spec.yaml").write_text(written)
    assert "mean of red, blue" in watched.look()[0]


def test_an_expert_with_another_model_s_name_is_not_taken_for_it(tmp_path: Path) -> None:
    experts = {"winner": Path("fake/one"), "4": Path("fake/two")}
    out, written = tmp_path / "run", {"base": Path("fake/base"), "experts": experts, "fitness__engine": ENGINE}
    report = run(load_spec(write_spec(tmp_path, trials=1, **written)), out)
    (found,) = compare([str(out), f"{out}:expert:winner"])
    assert (found.first.trial, found.second.trial) == (report.winner.number, 1)
    opened = open_run(out)
    with pytest.raises(InputError, match="no model"):
        _number(opened, "9" * 5000)
    assert [_number(opened, name) for name in ("expert:winner", "1", "expert:4", "4")] == [1, 1, 2, 4]


def test_equal_ids_of_another_file_are_other_items_though_they_look_like_hashes(tmp_path: Path) -> None:
    outs = []
    for name, mark in (("first", ""), ("second", "!")):
        written = {"base": Path("fake/base"), "experts": EXPERTS, "fitness__engine": ENGINE}
        spec = write_spec(tmp_path / name, trials=1, **written)
        for skill in SKILLS:
            items = [{"id": f"{i:012}", "q": f"{skill} {i}{mark}", "a": str(i)} for i in range(60)]
            (tmp_path / name / f"{skill}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        outs.append(tmp_path / name / "run")
        run(load_spec(spec), outs[-1])
    with pytest.raises(InputError, match="no report items in common"):
        compare([*map(str, outs)])
    assert compare([str(outs[0]), f"{outs[0]}:base"])[0].notes == ()


def _winner(path: Path) -> int | None:
    opened = open_run(path)
    winner = recorded_winner(opened.history, opened.objectives)
    return winner.number if winner else None


def test_turned_round_it_has_the_other_sign(runs: tuple[Path, Path]) -> None:
    (there,), (back,) = (compare([f"{runs[0]}:{a}", f"{runs[0]}:{b}"]) for a, b in (("one", "two"), ("two", "one")))
    assert there.objectives[0].by.mean == -back.objectives[0].by.mean != 0
    verdicts = {"the first is better": "the second is better", "undecided": "undecided"}
    verdicts |= {there: here for here, there in verdicts.items()}
    assert there.objectives[0].verdict == verdicts[back.objectives[0].verdict]


def test_the_first_is_compared_with_each_other(runs: tuple[Path, Path]) -> None:
    found = CliRunner().invoke(app, ["compare", *map(str, runs), f"{runs[1]}:base", "--json"], catch_exceptions=False)
    told = json.loads(found.stdout)
    assert told == comparison_json(compare([*map(str, runs), f"{runs[1]}:base"]))
    assert [one["second"]["name"] for one in told["comparisons"]] == ["winner", "base"]
    text = CliRunner().invoke(app, ["compare", *map(str, runs)], catch_exceptions=False).stdout
    assert text == comparison_text(compare([*map(str, runs)])) + "\n"
    assert "mean of red, blue" in text


def test_a_journal_is_all_it_reads(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for path in runs:
        (tmp_path / path.name).mkdir()
        for name in ("journal.jsonl", "spec.yaml"):
            shutil.copy(path / name, tmp_path / path.name)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    moved = compare([str(tmp_path / path.name) for path in runs])[0]
    assert moved.objectives == compare([*map(str, runs)])[0].objectives
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_is_missing_is_answered_by_the_command_it_names(runs: tuple[Path, Path]) -> None:
    answered = open_run(runs[0]).history.scores_of("report")
    number = next(n for n in open_run(runs[0]).history.trials if n not in answered)
    model = f"{runs[0]}:{number}"
    with pytest.raises(InputError, match="have not been answered") as error:
        compare([str(runs[0]), model])
    program, *arguments = shlex.split(error.value.fix)
    assert program == "crossbreed"
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert f"trial {number}: " in done.stdout
    (found,) = compare([str(runs[0]), model])
    assert found.second.trial == number


@pytest.mark.parametrize(
    ("models", "told"),
    [
        (["{0}"], "needs two models"),
        (["{0}", "{0}:on"], "did you mean `one`?"),
        (["{0}", "{0}:999"], "no such trial"),
        (["{0}", "uniform"], "write RUN:uniform"),
        (["{0}", "{0}/nowhere"], "not a run folder"),
    ],
)
def test_what_is_no_model_of_a_run_is_refused(runs: tuple[Path, Path], models: list[str], told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        compare([model.format(*runs) for model in models])


def test_other_splits_are_compared_on_what_they_share(spec: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    run(load_spec(spec, ["seed=8", "optimizer.budget.trials=1"]), tmp_path / "other")
    (found,) = compare([str(runs[0]), str(tmp_path / "other")])
    ids = [report_scores(path, 0) for path in (runs[0], tmp_path / "other")]
    shared = {skill: len(set(ids[0][skill].item_ids) & set(ids[1][skill].item_ids)) for skill in SKILLS}
    assert {line.name: line.by.n for line in found.tasks} == shared
    assert 0 < shared["red"] < 24
    assert f"red: {shared['red']} report items are in both runs, of 24 of the first and 24 of the second" in found.notes


def other_run(folder: Path, *overrides: str, **more: object) -> Path:
    """A run of the same items, with `more` fields in each."""
    path = write_spec(folder, base=Path("fake/base"), experts=EXPERTS, trials=1, fitness__engine=ENGINE)
    for skill in SKILLS if more else ():
        items = [json.loads(line) | more for line in (folder / f"{skill}.jsonl").read_text().splitlines()]
        (folder / f"{skill}.jsonl").write_text("\n".join(map(json.dumps, items)) + "\n")
    run(load_spec(path, overrides), folder / "run")
    return folder / "run"


def test_other_content_under_the_same_ids_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = other_run(tmp_path / "other", topic="x")
    with pytest.raises(InputError, match="no report items in common"):
        compare([str(runs[0]), str(other)])


def test_another_question_of_the_same_items_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = other_run(tmp_path / "other", "fitness.tasks.red.max_tokens=5")
    with pytest.raises(InputError, match="ask or score task `red` in different ways") as error:
        compare([str(runs[0]), str(other)])
    assert error.value.got == "max_tokens: 4 and 5"


def test_tasks_and_objectives_of_one_alone_are_said(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = other_run(tmp_path / "other", "fitness.objectives=[{worst: [red, blue]}]")
    (found,) = compare([str(runs[0]), str(other)])
    assert not found.objectives
    assert len(found.tasks) == 2
    assert "`mean of red, blue`, `worst of red, blue`" in found.notes[0]
    (found,) = compare([str(runs[0]), str(other_run(tmp_path / "red", "fitness.objectives=[{task: red}]"))])
    assert found.notes[0].endswith(": `mean of red, blue`"), "the task of the other's objective is compared"
