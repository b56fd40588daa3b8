"""A cluster whose nodes round differently runs what one machine runs."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from test_golden_runs import GOLDEN, copied
from toy_runs import call, records_of

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NODES: tuple[dict[str, str], ...] = (
    {"OPENBLAS_CORETYPE": "Haswell", "MKL_CBWR": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    {"OPENBLAS_CORETYPE": "Prescott", "MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
)


def _ray(*arguments: str, **environment: str) -> None:
    ray = Path(sys.executable).with_name("ray")
    subprocess.run([ray, *arguments], env={**os.environ, **environment}, check=True, capture_output=True, timeout=120)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a cluster of two nodes with a CPU each and other linear algebra, and what its users set."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = tmp_path / "token"
    token.write_text("0" * 64)
    common = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "CROSSBREED_CACHE": str(tmp_path / "cache"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    one_cpu = ("--num-cpus", "1", "--object-store-memory", "80000000", "--disable-usage-stats")
    head, other = NODES
    try:
        _ray("start", "--head", "--port", str(port), "--include-dashboard", "false", *one_cpu, **common, **head)
        _ray("start", "--address", f"127.0.0.1:{port}", *one_cpu, **common, **other)
        yield f"127.0.0.1:{port}", common
    finally:
        _ray("stop", "--force", **common)


def test_a_cluster_of_two_kinds_of_processors_runs_bmm(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """Both nodes answer, and every finalist is judged, whatever node merges it."""
    address, environment = cluster
    recorded = copied(GOLDEN / "v0.1.0/bmm/stopped", tmp_path / "recorded")
    spec = yaml.safe_load((recorded / "spec.yaml").read_text())
    spec["workers"] = {"executor": "ray", "address": address, "count": 2, "cpus": 1}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    shutil.copytree(GOLDEN / "v0.1.0/cache", tmp_path / "cache", dirs_exist_ok=True)
    out = tmp_path / "run"
    called = call("run", tmp_path / "spec.yaml", "--out", out, **environment)
    assert called.returncode == 0, called.stderr
    assert "left out" not in called.stdout
    records = records_of(out)
    assert all(record["status"] == "OK" for record in records if record["kind"] == "tell")
    nodes = {record["clock"]["worker"] for record in records if record["kind"] == "tell"}
    assert len(nodes) == 2
    assert (out / "report.json").exists()
