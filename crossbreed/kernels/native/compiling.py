"""Compiles C++ once on a machine: libraries are kept in the user's cache, by what they are made of and for."""

import ctypes
import os
import platform
import shutil
import subprocess
import warnings
from functools import cache
from hashlib import sha256
from pathlib import Path

from crossbreed.sources.hashes import cache_folder

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
        return ctypes.CDLL(str(_compiled(compiler, source)))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        warnings.warn(f"{compiler} does not compile merge kernels, so merges are slow: {detail[-300:]}", stacklevel=2)
        return None


def _compiled(compiler: str, source: str) -> Path:
    key = sha256("\n".join([source, *_FLAGS, _version(compiler), _processor()]).encode()).hexdigest()[:24]
    library = cache_folder() / "kernels" / f"{key}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}.so")  # renamed into place: other processes see all of it or nothing
        command = [compiler, *_FLAGS, "-x", "c++", "-", "-o", str(made)]
        subprocess.run(command, input=source, check=True, capture_output=True, text=True)
        made.replace(library)
    return library


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout


def _processor() -> str:
    """What -march=native depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
