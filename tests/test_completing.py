"""Shell completion: kinds, parts, runs and specs, without importing a tensor library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.cli.completing import _REGISTRIES
from crossbreed.runs.spec.listing import REGISTRIES

RUNNER = CliRunner()


def completed(*words: str, shell: str = "bash") -> list[str]:
    """What a shell is given for the last of the words."""
    line = " ".join(["crossbreed", *words])
    environment = {
        "_CROSSBREED_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words)),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = RUNNER.invoke(app, env=environment, prog_name="crossbreed")
    return done.stdout.split()


def test_every_kind_is_known() -> None:
    assert completed("list", "") == list(REGISTRIES) == list(_REGISTRIES)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_parts_are_completed(kind: str) -> None:
    assert completed("list", kind, "") == sorted(REGISTRIES[kind])


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_every_shell_is_answered(shell: str) -> None:
    assert completed("list", "operators", "dare", shell=shell) == ["dare_linear", "dare_ties"]
    assert completed("sho", shell=shell)[0] == "show"


def test_zsh_is_answered() -> None:
    said = completed("list", "operators", "tie", shell="zsh")
    assert "ties" in " ".join(said)


def test_runs_and_specs_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("runs/new", "runs/old", "other")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "journal.jsonl").touch()
        os.utime(tmp_path / name / "journal.jsonl", (1000 - age, 1000 - age))
    (tmp_path / "spec.yaml").touch()
    assert completed("show", "") == ["runs/new", "runs/old", "other"]
    assert completed("report", "runs/o") == ["runs/old"]
    assert completed("check", "s") == ["spec.yaml"]
    assert completed("run", "x") == []


def test_nothing_heavy_is_imported() -> None:
    program = """
import sys
from types import SimpleNamespace
import crossbreed.cli
from crossbreed.cli import completing
for kind in completing.kinds(""):
    assert completing.parts(SimpleNamespace(params={"kind": kind}), "")
print([name for name in ("torch", "transformers", "optuna", "cma", "ray", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_shown(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: (shell, f"/bin/{shell}"))  # else by its parent process
    script = RUNNER.invoke(app, ["--show-completion"], prog_name="crossbreed").stdout
    assert "_CROSSBREED_COMPLETE" in script
    assert shell == "bash" or "crossbreed" in script
