"""`publish`: what a command answers, writes and uploads is what it says before, and names no folder of its user."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from simulated import MEAN, scores_on, search
from toy_runs import records_of, write_spec
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.errors import InputError
from crossbreed.fitness.engines.registry import FakeConfig
from crossbreed.runs import check_spec, load_spec, publish_run, report_on, run
from crossbreed.runs.events import EngineStarting, Event, SplitStarting, TrialDone
from crossbreed.runs.publishing import contents
from crossbreed.runs.results.report import make_report
from crossbreed.runs.results.report_text import sentences
from crossbreed.runs.results.show import open_run
from crossbreed.runs.results.winner import named_baselines, reported
from crossbreed.testing.fakes import FakeEngine
from crossbreed.testing.toys import make_adapter, make_checkpoint, make_expert

PRIVATE = "/home/somebody/models/base"
LAST = 9


class Stopped(Exception):
    """As Ctrl-C would stop a run."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as old versions of transformers saved it, with the folders of who did."""
    base = make_checkpoint(tmp_path_factory.mktemp("models") / "base")
    for name, keys in (
        ("config.json", ("_name_or_path",)),
        ("tokenizer_config.json", ("name_or_path", "special_tokens_map_file", "cache_dir")),
        ("generation_config.json", ("_name_or_path",)),
        ("processor_config.json", ("_name_or_path",)),
    ):
        file = base / name
        stated = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(stated | dict.fromkeys(keys, PRIVATE)))
    return base


@pytest.fixture(scope="module")
def stopped(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its search, of an engine that evaluates weights."""
    experts = {
        "full": make_expert(base.with_name("full"), base=base, seed=1, pattern="self_attn"),
        "lora": make_adapter(base.with_name("lora"), base=base, seed=2),
    }
    folder = tmp_path_factory.mktemp("run")
    spec = load_spec(write_spec(folder, base=base, experts=experts))

    def stop(event: Event) -> None:
        if isinstance(event, TrialDone) and event.trial.number == LAST:
            raise Stopped

    with pytest.raises(Stopped):
        run(spec, folder / "run", engine=engine(base), on_event=stop)
    return folder / "run"


def engine(base: Path) -> FakeEngine:
    return FakeEngine(FakeConfig(kind="fake"), base)


@pytest.fixture
def run_folder(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


def test_another_trial_is_reported_on_and_nothing_else_is_answered(run_folder: Path, base: Path) -> None:
    """No winner is chosen for it: the selection items stay unanswered."""
    _, report = report_on(run_folder, trial=LAST, engine=engine(base))
    opened = open_run(run_folder)
    wanted = {LAST, *(b.trial.number for b in named_baselines(opened.trials, opened.objectives))}
    told = [(r["split"], r["number"]) for r in records_of(run_folder) if r["kind"] == "tell" and r["split"] != "search"]
    assert sorted(told) == sorted(("report", number) for number in wanted)
    assert report.winner.number == LAST
    assert not (run_folder / "report.json").exists(), "which is the winner's"


def test_a_dry_run_says_what_would_be_answered_and_uploaded(run_folder: Path, base: Path, tmp_path: Path) -> None:
    events: list[Event] = []

    def publish(*, dry_run: bool) -> str:
        events.clear()
        before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
        publish_run(
            run_folder,
            tmp_path / "model",
            trial=LAST,
            licence="mit",
            push_to="org/name" if dry_run else None,
            dry_run=dry_run,
            engine=engine(base),
            on_event=events.append,
        )
        if dry_run:
            assert not any(isinstance(event, EngineStarting | SplitStarting) for event in events)
            assert before == {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
            assert not (tmp_path / "model").exists()
        return "\n".join(map(str, events))

    assert "would first answer 48 report items with each of 6 models (trials 0, 1, 2, 3, " in publish(dry_run=True)
    report_on(run_folder, trial=LAST, engine=engine(base))
    told = publish(dry_run=True)
    assert "answer" not in told
    assert "would upload to org/name (private):" in told
    publish(dry_run=False)
    written = {p.relative_to(tmp_path / "model").as_posix(): p.stat().st_size for p in (tmp_path / "model").iterdir()}
    listed = [line.split() for line in told.splitlines()[1:-1]]
    assert {name: int(size.replace(",", "")) for size, name in listed} == written
    assert told.endswith(f"{sum(written.values()):,}  bytes")


def _listed_anew(folder: Path) -> None:
    """As whoever changes a file can: the folder's own list agrees with it again."""
    record = json.loads((folder / "crossbreed.json").read_text())
    record["files"] = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in folder.iterdir()
        if path.name != "crossbreed.json"
    }
    (folder / "crossbreed.json").write_text(json.dumps(record))


def _forge_texts(folder: Path) -> None:
    for name in ("README.md", "config.json", "tokenizer.json"):
        (folder / name).write_text((folder / name).read_text() + " ")
    (folder / "modeling.py").write_text("import os")
    record = json.loads((folder / "crossbreed.json").read_text())
    (folder / "crossbreed.json").write_text(json.dumps(record | {"scores": {"accuracy": 0.999}}))


def _flip_a_weight(folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-7] ^= 0x40
    (folder / "model.safetensors").write_bytes(weights)


def _leave_relabelled_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"format":"pt"', b'"format":"tf"'))
    for path in folder.iterdir():
        if path.name not in ("crossbreed.json", file.name):
            path.unlink()


def test_a_folder_is_vouched_for_by_the_run_and_not_by_its_own_list(
    run_folder: Path, base: Path, tmp_path: Path
) -> None:
    """Its list agrees with every change here; what the trial's weights, files and scores are, the run knows."""
    out = tmp_path / "model"

    def publish(folder: Path) -> None:
        publish_run(run_folder, folder, trial=LAST, licence="mit", engine=engine(base))

    publish(out)
    forged = {change: shutil.copytree(out, tmp_path / change.__name__ / "model") for change in CHANGES}
    written = out.stat().st_ino
    renamed = out.rename(tmp_path / "renamed")
    publish(renamed)  # its card has its first title
    assert renamed.stat().st_ino == written, "it is verified, not written again"
    for change, told in CHANGES.items():
        change(forged[change])
        _listed_anew(forged[change])
        with pytest.raises(InputError, match="has changed since it was published") as caught:
            publish(forged[change])
        assert all(name in caught.value.got for name in told), caught.value.got
    older = forged[_forge_texts] / "crossbreed.json"
    older.write_text(json.dumps(json.loads(older.read_text()) | {"versions": {"crossbreed": "0.0.1"}}))
    with pytest.raises(InputError, match="another version of crossbreed published this folder"):
        publish(older.parent)


CHANGES: dict[Callable[[Path], None], tuple[str, ...]] = {
    _forge_texts: ("README.md", "config.json", "tokenizer.json", "modeling.py", "crossbreed.json: scores"),
    _flip_a_weight: ("other weights than those that were scored",),
    _leave_relabelled_weights: ("model.safetensors", "README.md", "config.json"),
}


def test_no_file_that_is_published_names_a_folder_of_its_publisher(
    run_folder: Path, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    publish_run(run_folder, out, trial=LAST, with_scores=False, licence="mit", engine=engine(base))
    texts = {path.name: path.read_bytes() for path in out.iterdir()}
    for place in (PRIVATE, str(base.parent), str(tmp_path), str(Path.home())):
        assert [name for name, text in texts.items() if place.encode() in text] == []
    assert json.loads(texts["tokenizer_config.json"])["eos_token"] == "<eos>", "the rest is kept"
    assert b"path/to/full" in texts["mergekit_config.yml"]
    assert not [event for event in records_of(run_folder) if event.get("split") not in (None, "search")]


def test_a_tokenizer_that_changed_while_weights_were_written_is_not_published(
    run_folder: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = base / "tokenizer.json"
    before, write = file.read_bytes(), contents.write_shards

    def meanwhile(*arguments: Any) -> None:
        write(*arguments)
        file.write_bytes(before + b" ")

    monkeypatch.setattr(contents, "write_shards", meanwhile)
    arguments: dict[str, Any] = {"trial": LAST, "with_scores": False, "licence": "mit", "engine": engine(base)}
    try:
        with pytest.raises(InputError, match="changed while it was in use"):
            publish_run(run_folder, tmp_path / "model", **arguments)
    finally:
        file.write_bytes(before)
    assert not (tmp_path / "model").exists()
    assert not any(record["kind"] == "publish" for record in records_of(run_folder))
    with pytest.raises(InputError, match="name too long"):
        publish_run(run_folder, tmp_path / ("n" * 300), **arguments)


def test_a_file_without_paths_is_copied_as_it_is(run_folder: Path, base: Path, tmp_path: Path) -> None:
    publish_run(run_folder, tmp_path / "model", trial=LAST, with_scores=False, licence="mit", engine=engine(base))
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "model" / name).read_bytes() == (base / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "{run}", "--answers"], "--trial N"),
        (["publish", "{run}", "--out", "{out}", "--dry-run"], "--push ORG/NAME"),
        (["check", "{spec}", "--answer", "--resolved"], "answers nothing"),
        (["export", "{run}", "--optuna", "sqlite:///x.db", "--items"], "nothing to export"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(
    run_folder: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    places = {"run": run_folder, "out": tmp_path / "model", "spec": run_folder / "spec.yaml"}
    done = CliRunner().invoke(app, [argument.format(**places) for argument in arguments])
    assert isinstance(done.exception, InputError)
    assert told in str(done.exception)
    assert not (tmp_path / "model").exists()


def test_check_says_what_publish_will_ask(stopped: Path) -> None:
    notes = check_spec(load_spec(stopped.parent / "spec.yaml")).publish_notes
    asked = "--licence will be asked for: the licence of the merge is not known (base: not stated; full: not stated; "
    assert [note for note in notes if note.startswith(asked)]
    assert [note for note in notes if note.startswith("base, full, lora will be named as local folders")]


def test_tasks_that_tell_nothing_are_named() -> None:
    trials = search()
    scores = scores_on("report", reported(trials, [MEAN], 25))
    report = make_report(trials=trials, winner=25, scores=scores, objectives=[MEAN])
    assert not [line for line in sentences(report) if "tells nothing" in line]
    full = replace(report.winner.tasks["sums"], mean=1.0)
    rows = [replace(row, tasks={**row.tasks, "sums": full}) for row in report.rows]
    alike = replace(report, winner=rows[-1], baselines=tuple(rows[:-1]))
    assert "Every model here has the same score in sums (1.000), which tells nothing about the merge." in sentences(
        alike
    )


def test_accept_is_refused_where_nothing_is_compared(tmp_path: Path, base: Path) -> None:
    config = tmp_path / "merge.yml"
    config.write_text(f"merge_method: linear\nmodels: [{{model: {base}, parameters: {{weight: 1}}}}]\ndtype: float32\n")
    done = CliRunner().invoke(
        app,
        ["merge", str(config), "--out", str(tmp_path / "m"), "--numerics", "mergekit", "--accept", "tokenizer"],
    )
    assert "--accept has no effect" in str(done.exception)
