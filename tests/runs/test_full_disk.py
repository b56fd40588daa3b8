"""A disk that becomes full, or a folder that goes away, in mid-run: one message, nothing half-written, and it goes on.

A limit on the size of files makes each write fail where it does on a full disk: in the kernel.
"""

import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from in_process import exit_code_of
from toy_runs import journal_of, write_spec

from crossbreed.errors import MachineError
from crossbreed.runs import load_spec, run
from crossbreed.runs.events import Event, TrialDone

Cli = Callable[..., tuple[int, str]]


@contextmanager
def room(num_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> tuple[int, str]:
        return exit_code_of(*arguments), capsys.readouterr().err

    return call


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_experts: dict[str, Path]) -> Path:
    return write_spec(tmp_path_factory.mktemp("spec"), base=toy_base, experts=toy_experts, trials=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run(load_spec(spec), out)
    return out


def lines(error: str) -> list[str]:
    assert "Traceback" not in error
    return error.splitlines()


def test_a_run_whose_disk_is_full_goes_on_when_there_is_room(cli: Cli, spec: Path, whole: Path, tmp_path: Path) -> None:
    """The limit is met by each file in turn: the journal's lines, the log, answers, reports."""
    out, size = tmp_path / "run", (whole / "journal.jsonl").stat().st_size
    said = set()
    page_size = (whole / "report.html").stat().st_size
    for limit in (size // 3, size // 2, size - 100, page_size - 100):
        with room(limit):
            code, error = cli("run", spec, "--out", out)
        [line] = lines(error)
        assert code == 1
        assert line.startswith("crossbreed: [Errno 27] File too large: ")
        said.add(Path(line.split("'")[1]).name)
        assert (out / "journal.jsonl").read_bytes().endswith(b"}\n"), "no half of a line"
        assert not list(out.rglob(".*-*")), "no half of a file"
    assert {"journal.jsonl", "report.html"} <= said
    assert cli("run", spec, "--out", out)[0] == 0
    assert journal_of(out) == journal_of(whole)


def test_a_checkpoint_that_does_not_fit_leaves_nothing(cli: Cli, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "model"
    publish = ("publish", whole, "--out", out, "--trial", 1, "--no-report", "--licence", "mit")
    for limit in (10_000, 500_000):
        with room(limit):
            code, error = cli(*publish)
        [line] = lines(error)
        assert (code, line.endswith("failed: File too large")) == (1, True)
        assert list(out.parent.iterdir()) == []
    assert cli(*publish)[0] == 0
    assert (out / "model.safetensors").stat().st_size > 500_000


def test_an_adapter_that_does_not_fit_leaves_nothing(cli: Cli, whole: Path, tmp_path: Path) -> None:
    publish = ("publish", whole, "--trial", 1, "--as", "adapter", "--rank", 2, "--licence", "mit", "--no-report")
    assert cli(*publish, "--out", tmp_path / "first")[0] == 0  # kernels are compiled
    out = tmp_path / "adapters" / "adapter"
    with room(10_000):
        code, error = cli(*publish, "--out", out)
    [line] = lines(error)
    assert (code, line.endswith("adapter_model.safetensors failed: File too large")) == (1, True)
    assert list(out.parent.iterdir()) == []


@pytest.mark.slow
def test_a_regression_that_does_not_fit_is_said_and_made_again(
    cli: Cli, toy_base: Path, toy_adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "cache"))
    regression = {"regression": {"items": 2}}
    spec = write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters, trials=0, artifacts=regression)
    with room(100_000):
        code, error = cli("run", spec, "--out", tmp_path / "run")
    [line] = lines(error)
    assert code == 1
    assert line.startswith("crossbreed: [Errno 27] File too large: ")
    assert not list((tmp_path / "cache" / "artifacts").iterdir())
    assert cli("run", spec, "--out", tmp_path / "run")[0] == 0


def test_grams_that_do_not_fit_are_said_and_made_again(
    cli: Cli, toy_base: Path, toy_adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "cache"))
    changes: dict[str, Any] = {
        "space__operator": "regmean",
        "space__params": {},
        "artifacts": {"grams": {"items": 2}},
    }
    spec = write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters, trials=1, **changes)
    with room(100_000):
        code, error = cli("run", spec, "--out", tmp_path / "run")
    said = lines(error)
    assert code == 1
    assert "could not be written: " in said[0]
    assert "CROSSBREED_CACHE" in said[1]
    assert not list((tmp_path / "cache" / "artifacts").rglob("*.safetensors"))
    assert cli("run", spec, "--out", tmp_path / "run")[0] == 0


@pytest.mark.parametrize("how", ["renamed", "removed"])
@pytest.mark.parametrize("number", [0, 3])
def test_a_folder_that_goes_away_ends_the_run_with_what_to_do(
    how: str, number: int, spec: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def watch(event: Event) -> None:
        if isinstance(event, TrialDone) and event.trial.number == number and out.exists():
            out.rename(tmp_path / "renamed") if how == "renamed" else shutil.rmtree(out)

    with pytest.raises(MachineError, match="was removed or replaced while the run was writing to it") as caught:
        run(load_spec(spec), out, on_event=watch)
    assert str(out / "journal.jsonl") in str(caught.value)
    assert not out.exists()
    if how == "renamed":
        run(load_spec(spec), tmp_path / "renamed")
