"""Whole runs through the engine `api`: against a service in this process, with and without faults in between."""

from pathlib import Path

from api_specs import service_spec
from fake_service import FakeService

from crossbreed.runs import run


def test_a_run(tmp_path: Path) -> None:
    service = FakeService()
    report = run(service_spec(tmp_path, service), tmp_path / "run")
    print(report.winner.value, service.count("/v1/completions"), service.count("/v1/tokenize"))
    print((tmp_path / "run/log.txt").read_text())
    print(sorted(p.name for p in (tmp_path / "run").rglob("*")))
