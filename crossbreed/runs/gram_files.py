"""Files of Grams, found by the content hash in recipes: in the cache folder of this machine, and in their run's folder.

They cannot be made again bit by bit on another processor, so a run folder holds those that it was begun with.
"""

from pathlib import Path

from crossbreed.cache import cache_folder, is_ours
from crossbreed.durable import copy_atomically, write_atomically
from crossbreed.errors import InputError
from crossbreed.kernels.input_grams import InputGrams
from crossbreed.types import Recipe


def artifacts_of(recipe: Recipe) -> tuple[InputGrams, ...]:
    """Returns the artifacts of a recipe from the cache of this machine.

    Raises:
        InputError: one is not there.
    """
    found = []
    for name, wanted in recipe.artifacts.items():
        grams = stored(wanted)
        if grams is None:
            raise InputError(
                f"the recipe's artifact `{name}` is not on this machine",
                expected=f"content hash {wanted}",
                where=str(folder()),
                fix="make it again with `crossbreed report RUN`, of the run that bred the recipe; or set "
                "CROSSBREED_CACHE to a cache folder that contains it",
            )
        found.append(grams)
    return tuple(found)


def stored(wanted: str, *, kept: Path | None = None) -> InputGrams | None:
    """Returns the Grams with a content hash; None if they are not on this machine.

    Args:
        wanted: The hash.
        kept: A folder that may hold them, beside the cache.
    """
    note = folder() / f"{wanted}.files"
    places = [(opened, [folder() / file for file in note.read_text().split()])] if note.exists() else []
    if kept is not None:
        places.append((_readable, sorted(kept.glob(f"{wanted}-*.safetensors"))))  # whoever wrote them: see the hash
    for open_, paths in places:
        grams = open_(*paths) if paths else None
        if grams is not None and _hash_of(grams) == wanted:
            return grams
    return None


def keep(grams: InputGrams, into: Path) -> None:
    """Copies an artifact into a folder where `stored` finds it, unless it is there, whole."""
    into.mkdir(parents=True, exist_ok=True)
    shards = sorted(shard.path for shard in grams.shards)
    targets = [into / f"{grams.hash}-{index}.safetensors" for index in range(len(shards))]
    held = _readable(*targets)
    if held is None or _hash_of(held) != grams.hash:
        for shard, target in zip(shards, targets, strict=True):
            copy_atomically(shard, target)


def opened(*paths: Path) -> InputGrams | None:
    """Returns the Grams in some files; None if one is missing, truncated or not ours: they are made again."""
    return _readable(*paths) if all(map(is_ours, paths)) else None


def _readable(*paths: Path) -> InputGrams | None:
    try:
        return InputGrams.open(*paths)
    except InputError:
        return None


def _hash_of(grams: InputGrams) -> str | None:
    """Returns the content hash; None if a damaged file has none, since it holds NaN."""
    try:
        return grams.hash
    except InputError:
        return None


def folder() -> Path:
    """Returns the folder for files of Grams on this machine."""
    return cache_folder() / "artifacts"


def install(grams: InputGrams) -> None:
    """Copies an artifact of a run folder into the cache, for the workers and for merging its recipes."""
    keep(grams, folder())
    names = sorted(path.name for path in folder().glob(f"{grams.hash}-*.safetensors"))
    write_atomically(folder() / f"{grams.hash}.files", "\n".join(names).encode())


def note(grams: InputGrams) -> None:
    """Records the files that make up an artifact, for merging its recipes without their run."""
    write_atomically(folder() / f"{grams.hash}.files", "\n".join(file.path.name for file in grams.shards).encode())
