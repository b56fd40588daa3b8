"""Runs move: what another processor or version would have asked does not matter, and differences are said."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_golden_runs import GOLDEN, copied
from toy_runs import call, journal_of, records_of, write_spec

from crossbreed.errors import MachineError
from crossbreed.optimizer import CmaEs
from crossbreed.runs import load_spec, publish_run, report_on, run
from crossbreed.runs.events import TrialDone
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.versions import versions
from crossbreed.runs.stages.stage import Stage
from crossbreed.types import Point


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    return write_spec(tmp_path_factory.mktemp("spec"), base=toy_base, experts=toy_adapters, trials=10)


def asking_otherwise(factor: float) -> Callable[[CmaEs, int], Point | None]:
    ask = CmaEs.ask

    def other(self: CmaEs, number: int) -> Point | None:
        point = ask(self, number)
        return point and tuple(max(-0.5, min(1.5, x * factor)) for x in point)

    return other


def test_a_finished_run_is_reported_and_published_and_a_stopped_one_goes_on_where_asks_differ(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(load_spec(spec), tmp_path / "run")
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    monkeypatch.setattr(CmaEs, "ask", asking_otherwise(1 + 2.0**-51))
    monkeypatch.setattr(Stage, "make_optimizer", lambda *_, **__: pytest.fail("reports need none"))
    report_on(tmp_path / "run")
    publish_run(tmp_path / "run", tmp_path / "model", licence="mit", with_scores=False)
    published = records_of(tmp_path / "run")[-1]
    assert published["kind"] == "publish"
    run_again = load_spec(spec)
    monkeypatch.undo()
    assert run(run_again, tmp_path / "run").is_over
    assert (tmp_path / "run" / "journal.jsonl").read_bytes().startswith(before)
    said: list[str] = []
    monkeypatch.setattr(CmaEs, "ask", asking_otherwise(0.9))
    monkeypatch.setattr(CmaEs, "replay", lambda self, number, recorded: self.ask(number))
    more = load_spec(spec, ["optimizer.budget.trials=14"])
    assert run(more, tmp_path / "run", on_event=lambda event: said.append(str(event))).is_over
    assert any("are not what the optimizer proposes here" in line for line in said)


def test_a_run_that_is_gone_on_with_by_other_versions_says_so(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(load_spec(spec), tmp_path / "run")
    versions = {**records_of(tmp_path / "run")[0]["clock"]["versions"], "torch": "9.9.9"}
    monkeypatch.setattr("crossbreed.runs.record.identity.versions", lambda: versions)
    said: list[str] = []
    more = load_spec(spec, ["optimizer.budget.trials=11"])
    run(more, tmp_path / "run", on_event=lambda event: said.append(str(event)))
    [warning] = [line for line in said if "other versions" in line]
    assert "(now 9.9.9)" in warning
    assert (tmp_path / "run" / "journal.jsonl").read_text().count('"torch":"9.9.9"') == 1


def test_the_number_of_threads_is_one_of_the_versions() -> None:
    """On which the last digits of log-probabilities depend."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert versions()["threads"] == str(before + 1)
    finally:
        torch.set_num_threads(before)


def test_what_a_kill_leaves_is_removed_when_a_run_goes_on(spec: Path, tmp_path: Path) -> None:
    """And nothing of the user's."""
    out, left = (
        tmp_path / "run",
        [".phase.json-a1b2c3d4", ".spec.yaml-a1b2c3d4", "answers/.000001.search.json.gz-_1b2c3d4"],
    )
    run(load_spec(spec), out)
    for name in (*left, ".notes.txt-a1b2c3d4"):
        (out / name).write_text("half of a file")
    run(load_spec(spec), out)
    assert [path.name for path in out.rglob(".*")] == [".notes.txt-a1b2c3d4"]
    RunFolder(tmp_path / "empty").clear()


def test_another_run_in_the_folder_s_place_keeps_its_answers(spec: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "run", tmp_path / "other"
    run(load_spec(spec), other)
    answers = other / "answers" / "000003.search.json.gz"
    answers.write_bytes(b"of the other run")

    def swap(event: object) -> None:
        if isinstance(event, TrialDone) and other.exists():
            out.rename(tmp_path / "aside")
            other.rename(out)

    with pytest.raises(MachineError, match="removed or replaced"):
        run(load_spec(spec), out, on_event=swap)
    assert {path.read_bytes() for path in (out / "answers").glob("000003.search.json.gz")} == {b"of the other run"}
    ours, theirs = (len(list((place / "answers").iterdir())) for place in (tmp_path / "aside", out))
    assert ours == 1 < theirs


KERNELS: dict[str, dict[str, str]] = {
    "other BLAS": {"OPENBLAS_CORETYPE": "Prescott", "MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
    "Haswell": {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "default"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["cma_es", "gp", "nsga2", "m2n2", "frank_wolfe", "bmm"])
def test_a_run_of_another_processor_is_resumed_and_reported(kernel: str, name: str, tmp_path: Path) -> None:
    """In a process of its own, whose linear algebra is another processor's."""
    shutil.copytree(GOLDEN / "v0.1.0/cache", tmp_path / "cache")
    environment = {**KERNELS[kernel], "CROSSBREED_CACHE": str(tmp_path / "cache")}
    for state in ("stopped", "finished"):
        out = copied(GOLDEN / "v0.1.0" / name / state, tmp_path / state)
        before = journal_of(out)
        for arguments in (("run", out / "spec.yaml", "--out", out), ("report", out)):
            called = call(*arguments, **environment)
            assert called.returncode == 0, called.stderr
        assert journal_of(out)[: len(before)] == before
        assert (out / "report.json").exists()
