"""The cache folder of this machine, for data that can be recomputed: digests of files, compiled kernels, Grams."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Returns the cache folder: `CROSSBREED_CACHE`, else `crossbreed` in the user's cache folder."""
    named = os.environ.get("CROSSBREED_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "crossbreed"
    return (Path(named) if named else user).expanduser()
