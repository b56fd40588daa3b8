"""The cache folder of this machine, for data that can be recomputed: digests of files, compiled kernels, Grams.

What lies there is believed, and kernels are run. So a file counts only if no other user can have put it there, and
small ones end with a checksum: a file that a power cut or a bad disk has left is made again.
"""

import os
import stat
import tempfile
from hashlib import sha256
from pathlib import Path

_SEAL_BYTES = sha256().digest_size


def cache_folder() -> Path:
    """Returns the cache folder: `CROSSBREED_CACHE`, else `crossbreed` in the user's cache folder.

    For a user without a home (a container's numbered user) it is one of that user's own among the temporary files.
    """
    if named := os.environ.get("CROSSBREED_CACHE"):
        return expanded(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return expanded(named) / "crossbreed"
    try:
        return Path("~/.cache").expanduser() / "crossbreed"
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return Path(tempfile.gettempdir()) / f"crossbreed-{os.getuid()}"


def sealed(content: bytes) -> bytes:
    """Returns the content and, behind it, its checksum, which loaders of libraries and arrays pass over."""
    return content + sha256(content).digest()


def unsealed(path: Path) -> bytes | None:
    """Returns what was `sealed` in a file of the cache; None if it is absent, damaged, or open to other users."""
    try:
        found = path.read_bytes() if is_ours(path) else b""
    except OSError:
        return None
    content = found[:-_SEAL_BYTES]
    return content if found and sealed(content) == found else None


def expanded(path: str | os.PathLike[str]) -> Path:
    """Returns a path with `~` replaced, or as it is for a user without a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_ours(path: Path) -> bool:
    """Returns whether only this user (or root) can have written a file: it, and its folder up to the cache's.

    Folders that others may write to count if they are sticky, as /tmp is: then nobody replaces another's files.
    """
    root = cache_folder().absolute()
    chain = [path.absolute()]
    while chain[-1] != root and root in chain[-1].parents:
        chain.append(chain[-1].parent)
    try:
        return all(map(_is_private, chain))
    except OSError:
        return False


def _is_private(path: Path) -> bool:
    state = path.stat()
    has_own_group = state.st_gid == os.getgid() == os.getuid()  # where umask 002 is the custom
    others_write = state.st_mode & (stat.S_IWOTH if has_own_group else stat.S_IWGRP | stat.S_IWOTH)
    is_sticky_folder = stat.S_ISDIR(state.st_mode) and state.st_mode & stat.S_ISVTX
    return state.st_uid in (0, os.getuid()) and (not others_write or bool(is_sticky_folder))
