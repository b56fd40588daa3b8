"""Files of artifacts, found by the content hash in recipes: in the cache of this machine, and in their run's folder.

They cannot be made again bit by bit on another processor, so a run folder holds those that it was begun with.
"""

from pathlib import Path
from typing import TypeVar

from crossbreed.cache import cache_folder, is_ours
from crossbreed.durable import copy_atomically, write_atomically
from crossbreed.errors import InputError
from crossbreed.kernels.artifacts.binding import KINDS
from crossbreed.kernels.artifacts.files import SUFFIX, Artifact
from crossbreed.parsing import any_of, suggestion
from crossbreed.types import Recipe

A = TypeVar("A", bound=Artifact)


def artifacts_of(recipe: Recipe) -> tuple[Artifact, ...]:
    """Returns the artifacts of a recipe from the cache of this machine.

    Raises:
        InputError: one is not there, or nothing is called so.
    """
    found = []
    for name, wanted in recipe.artifacts.items():
        if name not in KINDS:
            raise InputError(
                f"no artifact is called `{name}`",
                expected=any_of(KINDS),
                where=f"the recipe's artifacts: {name}",
                fix=suggestion(name, KINDS),
            )
        artifact = stored(KINDS[name], wanted)
        if artifact is None:
            raise InputError(
                f"the recipe's artifact `{name}` is not on this machine",
                expected=f"content hash {wanted}",
                where=str(folder()),
                fix="make it again with `crossbreed report RUN`, of the run that bred the recipe; or set "
                "CROSSBREED_CACHE to a cache folder that contains it",
            )
        found.append(artifact)
    return tuple(found)


def stored(kind: type[A], wanted: str, *, kept: Path | None = None) -> A | None:
    """Returns the artifact with a content hash; None if it is not on this machine.

    Args:
        kind: What it is.
        wanted: The hash.
        kept: A folder that may hold it, beside the cache.
    """
    note = folder() / f"{wanted}.files"
    places = [(opened, [folder() / file for file in note.read_text().split()])] if note.exists() else []
    if kept is not None:
        places.append((_readable, _files_of(kept, wanted)))  # whoever wrote them: see the hash
    for open_, paths in places:
        artifact = open_(kind, *paths) if paths else None
        if artifact is not None and _hash_of(artifact) == wanted:
            return artifact
    return None


def keep(artifact: Artifact, into: Path) -> None:
    """Copies an artifact into a folder where `stored` finds it, unless it is there, whole."""
    into.mkdir(parents=True, exist_ok=True)
    shards = sorted(shard.path for shard in artifact.shards)
    targets = [into / f"{artifact.hash}-{index}{SUFFIX}" for index in range(len(shards))]
    held = _readable(type(artifact), *targets)
    if held is None or _hash_of(held) != artifact.hash:
        for shard, target in zip(shards, targets, strict=True):
            copy_atomically(shard, target)


def opened(kind: type[A], *paths: Path) -> A | None:
    """Returns the artifact in some files; None if one is missing, truncated or not ours: they are made again."""
    return _readable(kind, *paths) if all(map(is_ours, paths)) else None


def _readable(kind: type[A], *paths: Path) -> A | None:
    try:
        return kind.open(*paths)
    except InputError:
        return None


def _files_of(folder: Path, wanted: str) -> list[Path]:
    """Returns an artifact's files in a folder."""
    return sorted(folder.glob(f"{wanted}-*{SUFFIX}"))


def _hash_of(artifact: Artifact) -> str | None:
    """Returns the content hash; None if a damaged file has none, since it holds NaN."""
    try:
        return artifact.hash
    except InputError:
        return None


def folder() -> Path:
    """Returns the folder for files of artifacts on this machine."""
    return cache_folder() / "artifacts"


def install(artifact: Artifact) -> None:
    """Copies an artifact of a run folder into the cache, for the workers and for merging its recipes."""
    keep(artifact, folder())
    names = [path.name for path in _files_of(folder(), artifact.hash)]
    write_atomically(folder() / f"{artifact.hash}.files", "\n".join(names).encode())


def note(artifact: Artifact) -> None:
    """Records the files that make up an artifact, for merging its recipes without their run."""
    names = "\n".join(file.path.name for file in artifact.shards)
    write_atomically(folder() / f"{artifact.hash}.files", names.encode())
