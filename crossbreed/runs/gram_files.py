"""Files of Grams in the cache folder of this machine, found by the content hash in recipes."""

from pathlib import Path

from crossbreed.cache import cache_folder, is_ours
from crossbreed.durable import write_atomically
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
        note = folder() / f"{wanted}.files"
        paths = [folder() / file for file in note.read_text().split()] if note.exists() else []
        grams = opened(*paths)
        if grams is None or grams.hash != wanted:
            raise InputError(
                f"the recipe's artifact `{name}` is not on this machine",
                expected=f"content hash {wanted}",
                where=str(folder()),
                fix="make it again with `crossbreed report RUN`, of the run that bred the recipe; or set "
                "CROSSBREED_CACHE to a cache folder that contains it",
            )
        found.append(grams)
    return tuple(found)


def opened(*paths: Path) -> InputGrams | None:
    """Returns the Grams in some files; None if one is missing, truncated or not ours: they are made again."""
    if not all(map(is_ours, paths)):
        return None
    try:
        return InputGrams.open(*paths)
    except InputError:
        return None


def folder() -> Path:
    """Returns the folder for files of Grams on this machine."""
    return cache_folder() / "artifacts"


def note(grams: InputGrams) -> None:
    """Records the files that make up an artifact, for merging its recipes without their run."""
    write_atomically(folder() / f"{grams.hash}.files", "\n".join(file.path.name for file in grams.shards).encode())
