"""Compiles C++ once on a machine: libraries are kept in the user's cache, by what they are made of and for."""

import ctypes
import os
import platform
import shutil
import subprocess
import warnings
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp

from crossbreed.cache import cache_folder, is_ours, sealed, unsealed

_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-pthread"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),  # the first keeps bits, the others change none
)


def compiler() -> str | None:
    """Returns the C++ compiler that is used; CROSSBREED_COMPILER names another, or none if it is empty."""
    return _find(os.environ.get("CROSSBREED_COMPILER", "g++"))


@cache
def _find(name: str) -> str | None:
    return shutil.which(name)


def library(compiler: str, source: str) -> ctypes.CDLL | None:
    """Returns the library that is made of the source; None, with a warning, if that fails."""
    try:
        path = _path(compiler, source)
        if unsealed(path) is not None:  # a file that is cut ends the process that loads it, and one bit changes merges
            with suppress(OSError):
                return ctypes.CDLL(str(path))
        return ctypes.CDLL(str(_compile(compiler, source, path)))
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        warnings.warn(f"no kernel could be compiled and loaded, so merges are slow: {said[-300:]}", stacklevel=2)
        return None


def _path(compiler: str, source: str) -> Path:
    key = sha256("\n".join([source, *_FLAGS, _version(compiler), _processor()]).encode()).hexdigest()[:24]
    return cache_folder() / "kernels" / f"{key}.so"


def _compile(compiler: str, source: str, path: Path) -> Path:
    """Renames a whole file into place: others see all of it or nothing. Elsewhere, where the cache is read-only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not is_ours(path.parent):
            raise PermissionError(f"others can write to {path.parent}")
        folder = Path(mkdtemp(dir=path.parent))
    except OSError:
        folder = Path(mkdtemp(prefix="crossbreed-"))
        path = folder / path.name
    made = folder / "made.so"
    command = [compiler, *_FLAGS, "-x", "c++", "-", "-o", str(made)]
    try:
        subprocess.run(command, input=source, check=True, capture_output=True, text=True)
        made.write_bytes(sealed(made.read_bytes()))
        made.replace(path)
    finally:
        if path.parent != folder:
            shutil.rmtree(folder, ignore_errors=True)
    return path


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout


def _processor() -> str:
    """What -march=native depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
