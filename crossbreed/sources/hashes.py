"""Who a source is: a hash of its content, which no copy, rename or resharding changes.

A tensor's digest covers dtype, shape and bytes; a source's hash covers its tensors' names and digests. Reading every
byte once is also the moment to refuse NaN and Inf, which a merge would only spread. What was found is kept in a cache
by the file's path and state, so that a source is read in full once in its life on a machine.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import torch
from blake3 import blake3

from crossbreed.cache import cache_folder, sealed, unsealed
from crossbreed.errors import InputError
from crossbreed.sources.mapped_file import MappedFile
from crossbreed.sources.pages import MappedPages
from crossbreed.sources.slow_reads import about_to_read

_CACHE_FORMAT = 3
_HASH_BYTES = 16
_MANY_BYTES = 16 << 20
"""From here on several threads hash a tensor faster than one; for less, they are woken for nothing."""


def digests_of(file: MappedFile, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, str]:
    """Returns the digest of each tensor of a file, from the cache if it is known.

    Args:
        file: The safetensors file that `tensors` are views of.
        tensors: All of them, by name.

    Raises:
        InputError: a tensor holds NaN or Inf, or the file changed while it was read.
    """
    entry = _entry_path(file)
    cached = _read_entry(entry)
    if cached is not None and cached.keys() == tensors.keys():
        return cached
    about_to_read(file.path, file.state.num_bytes)
    digests = digest_each(tensors, [file.path], lambda name, tensor: _digest(name, tensor, file.path))
    file.require_unchanged()
    _write_entry(entry, digests)
    return digests


def require_unchanged(shards: Mapping[MappedFile, Mapping[str, torch.Tensor]]) -> None:
    """Looks at the files of a source's tensors: microseconds each, unless one is to be hashed again.

    Raises:
        InputError: one has changed since it was opened.
    """
    for file, tensors in shards.items():
        now = file.now
        if now is None or not file.was_relabelled:
            file.require_unchanged()
        elif digests_of(replace(file, state=now), tensors) != digests_of(file, tensors):
            raise file.changed


def digest_each(
    tensors: Mapping[str, torch.Tensor], files: Iterable[Path], digest: Callable[[str, torch.Tensor], str]
) -> dict[str, str]:
    """Returns the digest of each tensor, found on all threads; the pages of `files` that were read are given back."""
    pages = MappedPages(files)

    def find(name: str) -> str:
        found = digest(name, tensors[name])
        pages.let_go(tensors[name])
        return found

    with ThreadPoolExecutor(torch.get_num_threads(), "hash") as threads:
        return dict(zip(tensors, threads.map(find, tensors), strict=True))


def digest_of(tensor: torch.Tensor) -> str:
    """Returns the digest of a tensor's dtype, shape and bytes."""
    threads = blake3.AUTO if tensor.nbytes >= _MANY_BYTES else 1
    digest = blake3(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode(), max_threads=threads)
    return digest.update(_content(tensor).data).hexdigest(length=_HASH_BYTES)


def hash_of(lines: Iterable[str]) -> str:
    """Returns the content hash of a source that `lines` describe, in any order; a name may hold a newline itself."""
    return blake3("\n".join(sorted(line.replace("\n", "\\n") for line in lines)).encode()).hexdigest(length=_HASH_BYTES)


def hash_of_tensors(digests: Mapping[str, str]) -> str:
    """Returns the content hash of a full checkpoint: of its tensors' names and digests, whatever files they are in."""
    return hash_of(f"{name} {digest}" for name, digest in digests.items())


def _digest(name: str, tensor: torch.Tensor, path: Path) -> str:
    if tensor.is_floating_point() and not _is_finite(_content(tensor), tensor.dtype):
        raise InputError(
            f"`{name}` holds NaN or Inf",
            expected="finite weights",
            where=str(path),
            fix="use a checkpoint from before the training run diverged, or download it again if it should be sound",
        )
    return digest_of(tensor)


def _content(tensor: torch.Tensor) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    content: np.ndarray[tuple[int], np.dtype[np.uint8]]
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return content


def _is_finite(content: np.ndarray[tuple[int], np.dtype[np.uint8]], dtype: torch.dtype) -> bool:
    """Twenty times faster than `isfinite().all()`: of each sign, Inf and NaN have the largest bit patterns."""
    if content.size == 0:
        return True
    signed, unsigned = content.view(f"i{dtype.itemsize}"), content.view(f"u{dtype.itemsize}")
    infinity = int(torch.tensor([torch.inf], dtype=dtype).view(torch.uint8).numpy().view(unsigned.dtype)[0])
    sign_bit = 1 << (8 * dtype.itemsize - 1)
    return int(signed.max()) < infinity and int(unsigned.max()) < infinity + sign_bit


def _entry_path(file: MappedFile) -> Path:
    state = file.state
    known = (_CACHE_FORMAT, file.path.resolve(), state.num_bytes, state.modified_ns, state.changed_ns, state.inode)
    key = blake3("\0".join(map(str, known)).encode())
    return cache_folder() / "digests" / f"{key.hexdigest(length=_HASH_BYTES)}.json"


def _read_entry(entry: Path) -> dict[str, str] | None:
    """Returns None for an entry that is absent or broken: it can always be computed again."""
    if (content := unsealed(entry)) is None:
        return None
    try:
        value = json.loads(content)
    except ValueError:
        return None
    sound = isinstance(value, dict) and all(isinstance(digest, str) for digest in value.values())
    return value if sound else None


def _write_entry(entry: Path, digests: Mapping[str, str]) -> None:
    """Renames a whole file into place; a cache that cannot be written costs time, not the run."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=entry.parent, suffix=".tmp", delete=False) as file:
            file.write(sealed(json.dumps(digests).encode()))
        os.replace(file.name, entry)
    except OSError:
        return
