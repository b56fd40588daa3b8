"""Whole runs through the engine `api`: against a service in this process, with and without faults in between."""

from pathlib import Path
from typing import Any

import pytest
from api_specs import raw_spec, spec_over, written
from fake_service import EXPERTS, FakeService
from faults_transport import KINDS, Faulty, SimulatedClock

from crossbreed.runs import run
from crossbreed.runs.record.journal import read
from crossbreed.runs.record.records import to_json, without_clock

FAULTS_OF_EACH_SEED = 100


def journal_of(out: Path) -> list[Any]:
    """The journal but for times and places."""
    return [without_clock(record) for record in read(out / "journal.jsonl")]


def everything_written(out: Path) -> str:
    return "\n".join(
        path.read_text(errors="replace")
        for path in out.rglob("*")
        if path.is_file() and path.suffix in (".jsonl", ".json", ".txt", ".html", ".yaml")
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    return written(folder, raw_spec(folder))


@pytest.fixture(scope="module")
def finished(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a fault."""
    out = tmp_path_factory.mktemp("runs") / "run"
    run(spec_over(path, FakeService()), out)
    return out


def test_a_run_over_all_sources_of_the_service(finished: Path) -> None:
    records = [to_json(record) for record in read(finished / "journal.jsonl")]
    assert {*records[0]["sources"]} == {"base", *EXPERTS}
    values = {name: set[str]() for name in ("red", "blue", "pick")}
    for record in records:
        if record["kind"] == "tell" and record["split"] == "search":
            assert record["status"] == "OK"
            for name, found in record["tasks"].items():
                values[name].add(str(found))
    assert all(len(found) > 3 for found in values.values()), "the weights change what is measured"


@pytest.mark.parametrize("seed", [0, 1])
def test_no_fault_changes_a_trial_or_loses_one(seed: int, path: Path, finished: Path, tmp_path: Path) -> None:
    service, clock = FakeService(), SimulatedClock()
    faulty = Faulty(service, clock, service.restart, seed=seed, share=0.35, most=FAULTS_OF_EACH_SEED)
    run(spec_over(path, faulty, clock), tmp_path / "run")
    assert faulty.counts.total() == FAULTS_OF_EACH_SEED
    assert len(faulty.counts) > len(KINDS) * 0.8
    assert journal_of(tmp_path / "run") == journal_of(finished)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_alone(kind: str, path: Path, finished: Path, tmp_path: Path) -> None:
    service, clock = FakeService(), SimulatedClock()
    faulty = Faulty(service, clock, service.restart, seed=2, share=0.25, most=20, kinds=(kind,))
    run(spec_over(path, faulty, clock), tmp_path / "run")
    assert faulty.counts[kind] == 20
    assert journal_of(tmp_path / "run") == journal_of(finished)
