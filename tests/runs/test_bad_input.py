"""Bad input through the command line: the right exit code, one screen, no traceback, the run folder intact."""

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from in_process import exit_code_of
from safetensors.torch import load_file, save_file
from toy_runs import journal_of, start, write_spec

from crossbreed.durable import written_as
from crossbreed.recipes import dump_recipe
from crossbreed.runs import build_plan, load_spec
from crossbreed.runs.record.phase import PHASE_FILE, PhaseNote
from crossbreed.runs.results.show import show_json
from crossbreed.runs.workers.worker import Worker
from crossbreed.testing.toys import make_adapter, make_checkpoint
from crossbreed.types import Recipe, Rule

Cli = Callable[..., tuple[int, str]]
MAX_LINES = 24


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Calls the command line; returns exit code and stderr, which must fit one screen."""

    def call(*arguments: object) -> tuple[int, str]:
        code = exit_code_of(*arguments)
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert len(err.splitlines()) <= MAX_LINES
        return code, err

    return call


@pytest.fixture
def spec(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    return write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters, trials=2)


def changed(spec: Path, key: str, value: Any) -> Path:
    """Writes a value into the spec under a dotted key."""
    raw = yaml.safe_load(spec.read_text())
    *parents, last = key.split(".")
    place = raw
    for parent in parents:
        place = place[int(parent) if parent.isdigit() else parent]
    place[last] = value
    spec.write_text(yaml.safe_dump(raw, sort_keys=False))
    return spec


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("sources.base", "nowhere/at/all", "nowhere"),
        ("fitness.tasks.0.items", "absent.jsonl", "absent.jsonl"),
        ("fitness.tasks.0.metric", "exactmatch", "metric"),
        ("fitness.tasks.0.answer", "b", "no field `b`"),
        ("fitness.tasks.0.prompt", "{question}", "question"),
        ("fitness.tasks.1.name", "red", "two tasks"),
        ("fitness.objectives", [{"mean": ["red", "blu"]}], "blu"),
        ("fitness.split", {"search": 50, "select": 50, "report": 50}, "too few items"),
        ("fitness.engine.kind", "vlm", "vllm"),
        ("space.weight", [1.5, -0.5], "lower bound must come first"),
        ("space.operator", "task_aritmetic", "did you mean `task_arithmetic`"),
        ("space.groups", {"layers": 99, "modules": ["mlp"]}, "99"),
        ("optimizer.budget", {"trials": -1}, "budget"),
        ("optimizer.budget", {}, "budget"),
        ("seeed", 3, "did you mean `seed`"),
        ("optimizer.options.sigma", 0.1, "did you mean `sigma0`"),
        ("seed", -1, "seed"),
        ("warm_start", "one.yaml", "`warm_start` must be a list"),
        ("preset", "BMM", "did you mean `bmm`?"),
        ("space.params", {"weight": ["1e-1", 1.5]}, "write 1.0e-1"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_wrong_setting(cli: Cli, spec: Path, tmp_path: Path, command: str, key: str, value: Any, said: str) -> None:
    out = ("--out", tmp_path / "run") if command == "run" else ()
    code, err = cli(command, changed(spec, key, value), *out)
    assert code == 2
    assert said in err
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_a_warm_start_whose_rule_fits_no_tensor(cli: Cli, spec: Path) -> None:
    hashes = build_plan(load_spec(spec)).structure.hashes
    rule = Rule(match="modle.*", operator="task_arithmetic", params={"weight": 0.5})
    (spec.parent / "warm.yaml").write_text(dump_recipe(Recipe(base="base", sources=hashes, rules=(rule,))))
    code, err = cli("check", changed(spec, "warm_start", ["warm.yaml"]))
    assert code == 2
    assert "a rule matches no tensor of the base" in err
    assert "warm.yaml, rules[0]" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no items"),
        ('{"id": "x", "q": "a", "a": "1"}\n{"id": "x", "q": "b", "a": "2"}\n', "lines 1 and 2"),
        ('{"q": "a", "a": "1"}\n{"q": "a", "a": "1"}\n', "lines 1 and 2"),
        ('{"q": "a"}\n', "no field `a`"),
        ('{"q": "a", "a": "1"}\n{"q": \n', "line 2"),
    ],
    ids=["empty", "same id", "same content", "no answer", "not JSON"],
)
def test_wrong_items(cli: Cli, spec: Path, content: str, said: str) -> None:
    (spec.parent / "red.jsonl").write_text(content)
    code, err = cli("check", spec)
    assert code == 2
    assert said in err


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def test_an_expert_of_another_shape_names_the_tensor(cli: Cli, spec: Path, toy_base: Path, tmp_path: Path) -> None:
    expert = copied(toy_base, tmp_path / "expert")
    tensors = load_file(expert / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 128, dtype=torch.bfloat16)
    save_file(tensors, expert / "model.safetensors", metadata={"format": "pt"})
    code, err = cli("check", changed(spec, "sources.experts", {"odd": str(expert)}))
    assert code == 2
    assert "model.layers.1.mlp.up_proj.weight" in err


def test_an_expert_of_another_vocabulary(cli: Cli, spec: Path, toy_base: Path, tmp_path: Path) -> None:
    expert = copied(toy_base, tmp_path / "expert")
    tokenizer = json.loads((expert / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["!"], vocabulary['"'] = vocabulary['"'], vocabulary["!"]
    (expert / "tokenizer.json").write_text(json.dumps(tokenizer))
    code, err = cli("check", changed(spec, "sources.experts", {"odd": str(expert)}))
    assert code == 2
    assert "vocabular" in err


def test_an_adapter_of_another_base(cli: Cli, spec: Path, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", num_layers=6)
    adapter = make_adapter(tmp_path / "adapter", base=other, seed=1)
    code, err = cli("check", changed(spec, "sources.experts", {"odd": str(adapter)}))
    assert code == 2
    assert "layers.4" in err


def test_pickled_weights_are_refused_with_the_way_to_convert_them(
    cli: Cli, spec: Path, toy_base: Path, tmp_path: Path
) -> None:
    expert = copied(toy_base, tmp_path / "expert")
    (expert / "model.safetensors").rename(expert / "pytorch_model.bin")
    code, err = cli("check", changed(spec, "sources.experts", {"odd": str(expert)}))
    assert code == 2
    assert "safetensors" in err


def test_truncated_weights(cli: Cli, spec: Path, toy_base: Path, tmp_path: Path) -> None:
    expert = copied(toy_base, tmp_path / "expert")
    weights = expert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    code, err = cli("check", changed(spec, "sources.experts", {"odd": str(expert)}))
    assert code == 2
    assert str(expert) in err


def test_nan_in_an_expert_names_the_tensor(cli: Cli, spec: Path, toy_base: Path, tmp_path: Path) -> None:
    expert = copied(toy_base, tmp_path / "expert")
    tensors = load_file(expert / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, expert / "model.safetensors", metadata={"format": "pt"})
    code, err = cli("check", changed(spec, "sources.experts", {"odd": str(expert)}))
    assert code == 2
    assert "model.norm.weight" in err


def test_no_spec_and_no_yaml(cli: Cli, tmp_path: Path) -> None:
    assert cli("check", tmp_path / "absent.yaml")[0] == 2
    (tmp_path / "bad.yaml").write_text("a: [1")
    assert cli("check", tmp_path / "bad.yaml")[0] == 2


def test_wrong_arguments(cli: Cli, spec: Path) -> None:
    assert cli("run", spec, "--worker", "2")[0] == 2
    assert cli("breed", spec)[0] == 2
    assert cli("run", spec, "--set", "seed")[0] == 2
    assert cli("run", spec, "--set", "seed=[")[0] == 2


def test_no_disk(cli: Cli, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    code, err = cli("run", spec, "--out", tmp_path / "run")
    assert code == 2
    assert "not enough disk" in err


def test_an_output_folder_that_cannot_be_made(cli: Cli, spec: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cli("run", spec, "--out", tmp_path / "file")[0] == 2
    assert cli("run", spec, "--out", tmp_path / "file" / "run")[0] == 2
    assert cli("run", spec, "--out", "/proc/run")[0] == 2


def test_a_full_output_folder_that_is_no_run(cli: Cli, spec: Path, tmp_path: Path) -> None:
    code, err = cli("run", spec, "--out", spec.parent)
    assert code == 2
    assert "not a run" in err


@pytest.fixture
def finished(cli: Cli, spec: Path, tmp_path: Path) -> Path:
    assert cli("run", spec, "--out", tmp_path / "run") == (0, "")
    return tmp_path / "run"


def test_a_run_folder_of_another_spec(cli: Cli, spec: Path, finished: Path) -> None:
    before = (finished / "journal.jsonl").read_bytes()
    code, err = cli("run", spec, "--out", finished, "--set", "seed=8")
    assert code == 2
    assert "seed: 7 -> 8" in err
    assert (finished / "journal.jsonl").read_bytes() == before


def test_a_damaged_journal(cli: Cli, spec: Path, finished: Path) -> None:
    journal = finished / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    lines[3] = b"{" + lines[3]
    journal.write_bytes(b"\n".join(lines))
    before = journal.read_bytes()
    for command in (("run", spec, "--out", finished), ("show", finished), ("report", finished)):
        code, err = cli(*command)
        assert code == 2
        assert "line 4" in err
    assert journal.read_bytes() == before


def test_a_journal_without_one_of_its_lines(cli: Cli, spec: Path, finished: Path) -> None:
    journal = finished / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    for damage in (lines[:1] + lines[2:], lines[1:]):
        journal.write_bytes(b"\n".join(damage))
        for command in (("run", spec, "--out", finished), ("show", finished)):
            code, err = cli(*command)
            assert code == 2
            assert "damaged" in err


def test_a_folder_that_holds_only_the_lock_of_a_killed_start(cli: Cli, spec: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").touch()
    assert cli("run", spec, "--out", tmp_path / "run")[0] == 0


def test_a_folder_that_holds_only_half_of_a_file_of_a_killed_start(
    cli: Cli, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves of the note on the phase, which comes before the journal."""

    def killed(self: PhaseNote, folder: Path) -> None:
        tempfile.mkstemp(dir=folder, prefix=f".{PHASE_FILE}-")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PhaseNote, "write", killed)
        assert cli("run", spec, "--out", tmp_path / "run")[0] == 130
    [left] = [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    assert written_as(left) == PHASE_FILE
    assert cli("run", spec, "--out", tmp_path / "run")[0] == 0


def test_a_run_that_was_killed_before_its_spec_was_written(
    cli: Cli, spec: Path, finished: Path, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(finished / "journal.jsonl", begun)
    for command in ("report", "show"):
        code, error = cli(command, begun)
        assert (code, "give `crossbreed run` the run's own spec" in error) == (2, True)
    assert cli("run", spec, "--out", begun)[0] == 0
    assert cli("show", begun)[0] == 0


def test_answers_that_are_none_are_refused_with_what_to_do(cli: Cli, finished: Path) -> None:
    paths = [finished / "answers" / name for name in ("000000.search.json.gz", "000000.report.json.gz")]
    show = ("show", finished, "--trial", 0, "--answers")
    for told in ("[]", '{"red": []}', '{"red": null}', '{"red": {"red-1": 5}}', "not json"):
        for path in paths:
            path.write_bytes(gzip.compress(told.encode()))
        code, error = cli(*show)
        assert (code, "the answers of a trial cannot be read" in error) == (2, True)
    assert cli("report", finished)[0] == 2
    for path in paths:
        path.unlink()  # as it says
    assert cli(*show)[0] == cli("report", finished)[0] == 0


def test_an_engine_that_measures_nothing_leaves_nothing_behind(cli: Cli, spec: Path, tmp_path: Path) -> None:
    worker = Worker(build_plan(load_spec(spec)))
    worker.canary()
    first_of_the_search = worker.candidate_engine.engine._faults.num_answers + 1
    engine = f"fitness.engine={{kind: fake, fail: answer, fail_at: {first_of_the_search}}}"
    broken = ("--set", engine, "--set", "workers.retries=0")
    code, err = cli("run", spec, "--out", tmp_path / "run", *broken)
    assert code == 1
    assert "nothing could be measured" in err
    assert [record["kind"] for record in journal_of(tmp_path / "run")] == ["run", "ask"]


@pytest.mark.engine
@pytest.mark.slow
def test_a_wrong_engine_option_through_ray(cli: Cli, spec: Path, tmp_path: Path) -> None:
    engine = "fitness.engine={kind: vllm, options: {enforce_eagr: true}}"
    ray = ("--set", "workers={executor: ray, count: 1, cpus: 1}")
    code, err = cli("run", spec, "--out", tmp_path / "run", "--set", engine, *ray)
    assert code == 2
    assert "write `enforce_eager`" in err


@pytest.mark.engine
def test_workers_that_never_fit(cli: Cli, spec: Path, tmp_path: Path) -> None:
    code, err = cli("run", spec, "--out", tmp_path / "run", "--set", "workers={executor: ray, count: 1, cpus: 999}")
    assert code == 2
    assert "999 CPUs" in err


@pytest.mark.parametrize("command", ["check", "run"])
def test_matrices_that_are_too_wide_to_regress_on(
    command: str,
    cli: Cli,
    tmp_path: Path,
    toy_base: Path,
    toy_experts: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("crossbreed.kernels.prepared.regression_problem.MOST_COLUMNS", 150)
    spec = write_spec(tmp_path / "spec", base=toy_base, experts=toy_experts, space__operator=["ties", "swudi"])
    code, err = cli(command, spec, *(["--out", tmp_path / "run"] if command == "run" else []))
    assert code == 2
    assert "mlp.down_proj.weight` has too many inputs" in err
    assert not (tmp_path / "run" / "journal.jsonl").exists()
    spec = write_spec(tmp_path / "spec", base=toy_base, experts=toy_experts, space__operator="ties")
    build_plan(load_spec(spec))


def test_a_folder_that_is_no_run(cli: Cli, tmp_path: Path) -> None:
    for command in (("show", tmp_path), ("report", tmp_path), ("publish", tmp_path, "--out", tmp_path / "model")):
        assert cli(*command)[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_publishing_over_something_or_an_unknown_trial(cli: Cli, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    publish = ("publish", finished, "--no-report", "--licence", "mit", "--out")
    code, err = cli(*publish, tmp_path / "taken")
    assert code == 2
    assert "in use" in err
    assert cli(*publish, tmp_path / "model", "--trial", "77")[0] == 2
    assert cli("publish", finished, "--no-report", "--out", tmp_path / "model")[0] == 2  # the toys state no licence
    assert cli(*publish, tmp_path / "model", "--dry-run")[0] == 2  # of what?
    assert cli(*publish, tmp_path / "model", "--dry-run", "--push", "org/name")[0] == 0
    code, err = cli("publish", finished, "--licence", "mit", "--out", tmp_path / "model")
    assert code == 2
    assert "made up" in err
    assert not (tmp_path / "model").exists()
    for trial, code in ((1, 0), (1, 0), (3, 2)):  # the second time it is there already
        assert cli(*publish, tmp_path / "model", "--trial", trial)[0] == code
    assert show_json(finished)["state"] == "finished"
    assert cli("run", finished / "spec.yaml", "--out", finished) == (0, "")
    assert show_json(finished)["state"] == "finished"


def test_what_is_uploaded_is_compared_with_its_list_once(
    cli: Cli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = ("publish", finished, "--no-report", "--licence", "mit", "--out", tmp_path / "model", "--trial", 1)
    assert cli(*publish)[0] == 0
    digest, read = hashlib.file_digest, list[str]()

    def counted(file: Any, kind: str) -> Any:
        read.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    assert cli(*publish, "--push", "org/name", "--dry-run")[0] == 0
    assert read.count("model.safetensors") == 1
    (tmp_path / "model" / "README.md").write_text("better than it is")
    assert cli(*publish, "--push", "org/name", "--dry-run")[0] == 2


def test_an_engine_that_dies_at_start_is_the_machines_fault(cli: Cli, spec: Path, tmp_path: Path) -> None:
    code, err = cli("run", spec, "--out", tmp_path / "run", "--set", "fitness.engine.fail=start")
    assert code == 1
    assert "does not start" in err


def wait_for_a_trial(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert any("  trial " in line for line in process.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "signals"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_ctrl_c_once_and_twice_and_sigterm_leave_a_run_that_resumes(
    number: signal.Signals, signals: int, cli: Cli, spec: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    slow = ("--set", "fitness.engine={kind: fake, delay_s: 0.15}")
    process = start("run", spec, "--out", out, *slow)
    wait_for_a_trial(process)
    for _ in range(signals):
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert signals == 2 or "stopped; the same command resumes" in err
    for folder in (out, whole):
        assert cli("run", spec, "--out", folder, *slow)[0] == 0
    assert journal_of(out) == journal_of(whole)


def test_a_second_driver_is_refused(cli: Cli, spec: Path, tmp_path: Path) -> None:
    slow = ("--set", "fitness.engine={kind: fake, delay_s: 0.05}")
    first = start("run", spec, "--out", tmp_path / "run", *slow)
    wait_for_a_trial(first)
    code, err = cli("run", spec, "--out", tmp_path / "run", *slow)
    assert code == 2
    assert "another driver" in err
    first.communicate(timeout=120)
    assert first.returncode == 0
    os.stat(tmp_path / "run" / "report.json")


def test_files_that_are_missing_are_told_at_once(cli: Cli, spec: Path) -> None:
    changed(changed(spec, "sources.base", "./none"), "sources.experts.plain", "gone/away")
    changed(changed(spec, "fitness.tasks.0.items", "absent.jsonl"), "fitness.tasks.1.prompt", "{question}")
    code, err = cli("check", spec)
    assert (code, err.splitlines()[0]) == (2, "crossbreed: 4 mistakes")
    for said in ("the base: ", "expert `plain`: ", "absent.jsonl", "has no field `question`", "./gone/away"):
        assert said in err


@pytest.mark.timeout(30)
def test_a_run_folder_with_a_pipe_in_it(cli: Cli, finished: Path, tmp_path: Path) -> None:
    for name in ("journal.jsonl", "spec.yaml", "log.txt", "report.json"):
        folder = Path(shutil.copytree(finished, tmp_path / name))
        (folder / name).unlink()
        os.mkfifo(folder / name)
        for command in (("show", folder), ("report", folder), ("run", finished / "spec.yaml", "--out", folder)):
            code, error = cli(*command)
            assert (code, f"`{name}` is neither a file nor a folder" in error) == (2, True), command
