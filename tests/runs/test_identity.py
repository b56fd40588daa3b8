"""A run is a function and not only its tensors: what changes answers may not change under it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_runs import write_spec

from crossbreed.errors import InputError
from crossbreed.runs import build_plan, load_spec, publish_run, report_on, run
from crossbreed.runs.record.identity import check_same_run
from crossbreed.runs.workers.start import start_worker


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, toy_base: Path) -> Path:
    return Path(shutil.copytree(toy_base, tmp_path_factory.mktemp("sources") / "base"))


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, original: Path, toy_adapters: dict[str, Path]) -> Path:
    return write_spec(tmp_path_factory.mktemp("spec"), base=original, experts=toy_adapters, trials=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run(load_spec(spec), out)
    return out


def _edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        value = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**value, **changes}))

    return change


def _permute(folder: Path) -> None:
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    vocab = value["model"]["vocab"]
    first, second = list(vocab)[5:7]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(value))


def _retemplate(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}!{% endfor %}")


CHANGES = {
    "tokenizer": [_permute, _edit("tokenizer_config.json", add_prefix_space=True)],
    "config.json": [
        _edit("config.json", hidden_act="relu"),
        _edit("config.json", rms_norm_eps=1.0),
        _edit("config.json", rope_parameters={"rope_type": "default", "rope_theta": 77.0}),
    ],
    "chat template": [_retemplate],
    "end tokens": [_edit("generation_config.json", eos_token_id=7)],
}


@pytest.fixture
def changed(original: Path, tmp_path: Path) -> Any:
    """Changes the base's folder for one test."""
    kept = shutil.copytree(original, tmp_path / "kept")
    yield lambda change: change(original)
    shutil.rmtree(original)
    shutil.copytree(kept, original)


@pytest.mark.parametrize(
    ("part", "change"), [(part, change) for part, changes in CHANGES.items() for change in changes]
)
def test_a_run_does_not_go_on_with_another_function(
    part: str, change: Callable[[Path], None], changed: Any, finished: Path, spec: Path, tmp_path: Path
) -> None:
    before = (finished / "journal.jsonl").read_bytes()
    recorded = build_plan(load_spec(spec)).run_record()
    changed(change)
    match = f"base's {part} changed since this run was started"
    with pytest.raises(InputError, match=match):
        run(load_spec(spec, ["optimizer.budget.trials=4"]), finished)
    with pytest.raises(InputError, match=match):
        report_on(finished)
    for dry_run in (False, True):
        with pytest.raises(InputError, match=match):
            publish_run(
                finished,
                tmp_path / "model",
                trial=1,
                with_scores=False,
                licence="mit",
                push_to="org/name" if dry_run else None,
                dry_run=dry_run,
            )
    with pytest.raises(InputError, match=match):
        start_worker(load_spec(spec), recorded)
    assert (finished / "journal.jsonl").read_bytes() == before
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "change",
    [
        _edit("config.json", use_cache=False, transformers_version="9.9", max_length=3),
        _edit("tokenizer_config.json", model_max_length=77, padding_side="left"),
        lambda folder: (folder / "README.md").write_text("a model"),
    ],
)
def test_what_changes_no_answer_may_change(
    change: Callable[[Path], None], changed: Any, finished: Path, spec: Path
) -> None:
    changed(change)
    assert run(load_spec(spec), finished).winner


def test_a_journal_of_a_version_that_did_not_record_it_goes_on(spec: Path, tmp_path: Path) -> None:
    planned = build_plan(load_spec(spec)).run_record()
    assert planned.host.keys() == CHANGES.keys()
    check_same_run(replace(planned, host={}), planned, where=tmp_path)
