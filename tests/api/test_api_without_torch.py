"""The engine `api` in processes where no tensor library can be imported, and without its own client."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from api_specs import raw_spec, written
from fake_service import KEY, FakeService
from json_server import serving

BLOCKED = ("torch", "vllm", "transformers", "ray", "safetensors", "tokenizers", "triton", "huggingface_hub", "fastapi")
COMMAND = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
from crossbreed.cli import main
main()
"""


def call(*arguments: object, blocked: tuple[str, ...] = BLOCKED, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format(blocked=blocked), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.slow
def test_the_whole_way_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", KEY)
    out = tmp_path / "run"
    with serving(FakeService(key=KEY).reply) as url:
        spec = written(tmp_path, raw_spec(tmp_path, url=url, key_env="SERVICE_KEY"))
        assert "weights made by the engine" in call("check", spec)
        assert "base: " in call("check", spec, "--answer")
        call("run", spec, "--out", out)
        call("report", out)
        assert "the provider wrote trial" in call("publish", out, "--out", tmp_path / "published")
    assert json.loads(call("show", out, "--json"))["state"] == "finished"
    assert "does not answer" in call("run", spec, "--out", tmp_path / "other", code=1)


@pytest.mark.slow
def test_without_the_client_the_extra_is_named(tmp_path: Path) -> None:
    spec = written(tmp_path, raw_spec(tmp_path))
    assert "pip install 'crossbreed[api]'" in call("check", spec, blocked=("openai",), code=2)
